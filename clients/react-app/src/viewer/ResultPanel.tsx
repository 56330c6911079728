import { useState } from "react";

import type { Job } from "../api/types";
import { language, useWords, wordsOf } from "../i18n";
import { useStore } from "../state/store";
import { SegmentationNotShown } from "./dicom";
import { colorOf } from "./overlay";
import { filesOf, saveFile } from "./result";
import type { ReadResult } from "./result";

export type ResultView = "overlay" | "capture";

interface Props {
  job: Job;
  read: ReadResult | null;
  /** It names another study than the images' own. */
  isElsewhere: boolean;
  failure: unknown;
  /** Frames of the segmentation that lie on none of the images. */
  unplaced: number;
  view: ResultView;
  onView: (view: ResultView) => void;
  opacity: number;
  onOpacity: (opacity: number) => void;
  onSegment: (segment: number, isVisible: boolean) => void;
  onPng: () => void;
  onClose: () => void;
}

export function ResultPanel(props: Props) {
  const t = useWords();
  const lang = useStore(language);
  const { job, read, failure, view } = props;
  const [saving, setSaving] = useState<unknown>(null);
  const why = failure ?? saving;
  return (
    <section className="panel" aria-label={t("result.title")}>
      <div className="panel-head">
        <h2>{t("result.title")}</h2>
        <button type="button" className="plain" onClick={props.onClose}>
          {t("result.close")}
        </button>
      </div>
      {why !== null && why !== undefined && (
        <p className="note bad" role="alert">
          {why instanceof SegmentationNotShown ? t("result.notShown") : t("result.unreadable", { why: wordsOf(why, t) })}
        </p>
      )}
      {props.isElsewhere && (
        <p className="note bad" role="alert">
          {t("result.otherStudy")}
        </p>
      )}
      {read === null && failure === null && <p className="quiet">{t("result.loading")}…</p>}
      {read?.segmentation && read.capture && (
        <label className="field">
          <span>{t("result.view")}</span>
          <select value={view} onChange={(event) => props.onView(event.target.value as ResultView)}>
            <option value="overlay">{t("result.view.overlay")}</option>
            <option value="capture">{t("result.view.capture")}</option>
          </select>
        </label>
      )}
      {read?.segmentation && view === "overlay" && (
        <>
          <label className="field">
            <span>
              {t("result.opacity")}: {Math.round(props.opacity * 100)} %
            </span>
            <input
              type="range"
              min={0}
              max={1}
              step={0.05}
              value={props.opacity}
              onChange={(event) => props.onOpacity(Number(event.target.value))}
            />
          </label>
          <fieldset className="segments">
            <legend>{t("result.segments")}</legend>
            {read.segmentation.segments.map((segment) => (
              <label key={segment.number} className="check">
                <input
                  type="checkbox"
                  defaultChecked
                  onChange={(event) => props.onSegment(segment.number, event.target.checked)}
                />
                <svg width="14" height="14" aria-hidden="true">
                  <rect width="14" height="14" rx="3" fill={`rgb(${colorOf(segment.number).join(",")})`} />
                </svg>
                {segment.label}
              </label>
            ))}
          </fieldset>
          {props.unplaced > 0 && (
            <p className="note bad" role="alert">
              {t(props.unplaced === 1 ? "result.unplaced.one" : "result.unplaced", { n: props.unplaced })}
            </p>
          )}
        </>
      )}
      {read && read.measurements.length > 0 && (
        <table className="measurements">
          <caption>{t("result.measurements")}</caption>
          <thead>
            <tr>
              <th scope="col">{t("result.finding")}</th>
              <th scope="col">{t("result.measure")}</th>
              <th scope="col">{t("result.value")}</th>
            </tr>
          </thead>
          <tbody>
            {read.measurements.map((one, at) => (
              <tr key={at}>
                <td>{one.finding}</td>
                <td>{one.name}</td>
                <td className="number">
                  {valueOf(one.value, lang)} {one.unit}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      <div className="downloads" role="group" aria-label={t("result.downloads")}>
        {filesOf(job).map((file) => (
          <button
            key={file.key}
            type="button"
            onClick={() => {
              setSaving(null);
              saveFile(file.url, file.key.split("/").pop() ?? "result.dcm").catch(setSaving);
            }}
          >
            {t("result.download", { kind: file.kind })}
          </button>
        ))}
        <button type="button" onClick={props.onPng}>
          {t("result.png")}
        </button>
      </div>
    </section>
  );
}

/** To a tenth; of what is small, to three digits: a fraction of 0.043 is no 0. */
function valueOf(value: number, lang: string): string {
  return value.toLocaleString(lang, Math.abs(value) < 10 ? { maximumSignificantDigits: 3 } : { maximumFractionDigits: 1 });
}
