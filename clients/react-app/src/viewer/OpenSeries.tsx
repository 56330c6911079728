import { useEffect, useMemo, useRef, useState } from "react";

import type { Platform } from "../api/platform";
import type { ImageLink, Job } from "../api/types";
import { useWords, wordsOf } from "../i18n";
import { RunPanel } from "../parts/RunPanel";
import { jobs as jobsStore } from "../state/jobs";
import { isOf, opened } from "../state/route";
import { session } from "../state/session";
import { useStore } from "../state/store";
import {
  annotation,
  cache,
  chooseTool,
  ENGINE_ID,
  hasViewport,
  metaData,
  release,
  start,
  SynchronizerManager,
  synchronizers,
  viewport,
} from "./engine";
import type { ToolName } from "./engine";
import { apart, frameNumber } from "./frames";
import { imagesOf } from "./images";
import { SeriesLoader } from "./loading";
import type { Loading } from "./loading";
import { countUnplaced, Overlay } from "./overlay";
import { PRESET_NAMES } from "./presets";
import type { PresetName } from "./presets";
import { readCaptureFile, readResult, saveBlob } from "./result";
import type { Source } from "./dicom";
import type { ReadCapture, ReadResult } from "./result";
import { ResultPanel } from "./ResultPanel";
import type { ResultView } from "./ResultPanel";
import { StackView } from "./StackView";
import { Toolbar } from "./Toolbar";
import { rangeOf } from "./window";
import { dateOf } from "../screens/Find";

const ORIGINAL = "original";
const RESULT = "result";

export { start };

/** The series that is open, its images loading, and a result of it beside it. */
export function OpenSeries() {
  const t = useWords();
  const here = useStore(opened);
  const platform = useStore(session)?.platform;
  const series = here?.series;
  const [imageIds, setImageIds] = useState<string[]>([]);
  const [index, setIndex] = useState(0);
  const [ownIndex, setOwnIndex] = useState(0);
  const [isLinked, setLinked] = useState(true);
  const [tool, setTool] = useState<ToolName>("window");
  const [loading, setLoading] = useState<Loading | null>(null);
  const [failure, setFailure] = useState<unknown>(null);
  const [tries, setTries] = useState(0);
  const loader = useRef<SeriesLoader | null>(null);

  // The images, and their pixels around the one in sight.
  const studyId = series?.study_id;
  const seriesId = series?.series_id;
  useEffect(() => {
    if (!studyId || !seriesId || !platform) return;
    let isCurrent = true;
    setFailure(null);
    const follow = (ids: string[], first: number): void => {
      loader.current = new SeriesLoader(ids, first, (state) => {
        setLoading(state);
        if (state.done + state.failed < state.total) return;
        const frames = apart(ids);
        if (frames.length === ids.length) return;
        const seen = kept?.ids === ids ? kept.index : first;
        const at = apart(ids.slice(0, seen)).length + Math.floor(apart(ids.slice(seen, seen + 1)).length / 2);
        if (kept?.ids === ids) [kept.ids, kept.index] = [frames, at];
        setImageIds(frames);
        setIndex(at);
        setOwnIndex(at);
        follow(frames, at);
      });
    };
    Promise.all([idsOf(platform, studyId, seriesId, tries > 0), start()])
      .then(([{ ids, index: first }]) => {
        if (!isCurrent) return;
        setImageIds(ids);
        setIndex(first);
        setOwnIndex(first);
        follow(ids, first);
      })
      .catch((error: unknown) => isCurrent && setFailure(error));
    return () => {
      isCurrent = false;
      loader.current?.stop();
      loader.current = null;
    };
    // Keys that are given later don't open the series again.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [studyId, seriesId, tries]);

  useEffect(() => {
    loader.current?.look(index);
    if (kept && kept.ids === imageIds) kept.index = index;
  }, [index, imageIds]);

  // The result beside it.
  const all = useStore(jobsStore).jobs;
  const job = here?.jobId ? (all.find((one) => one.job_id === here.jobId) ?? null) : null;
  const shownJob = here && job?.status === "SUCCEEDED" && job.result && isOf(job, here.series) ? job : null;
  const isLoaded = loading !== null && loading.done + loading.failed === loading.total;
  const result = useResult(shownJob);
  const [view, setView] = useState<ResultView>("overlay");
  const [opacity, setOpacity] = useState(0.4);
  const hasOverlay = Boolean(result.read?.segmentation);
  const shows: ResultView = hasOverlay ? view : "capture";
  const capture = useCapture(result.read, shows === "capture");

  const indexOf = useMemo(() => sourceIndex(imageIds, isLoaded), [imageIds, isLoaded]);
  const frameOf = useMemo(() => framesOf(capture.read, imageIds.length, indexOf), [capture.read, imageIds.length, indexOf]);
  const overlay = useRef<Overlay | null>(null);
  const [resultReady, setResultReady] = useState(0);
  const resultIds = shows === "overlay" ? imageIds : (capture.read?.imageIds ?? NO_IDS);

  useEffect(() => {
    const segmentation = result.read?.segmentation;
    if (!shownJob || !segmentation || shows !== "overlay" || !resultReady) return;
    const made = new Overlay(RESULT, segmentation, latestOpacity.current, sourceAt);
    overlay.current = made;
    return () => {
      overlay.current = null;
      made.remove();
    };
  }, [shownJob?.job_id, result.read, shows, resultReady]); // eslint-disable-line react-hooks/exhaustive-deps

  const latestOpacity = useRef(opacity);
  useEffect(() => {
    latestOpacity.current = opacity;
    overlay.current?.setOpacity(opacity);
  }, [opacity]);

  const unplaced = useMemo(
    () => (isLoaded && result.read?.segmentation ? countUnplaced(result.read.segmentation, imageIds, sourceAt) : 0),
    [isLoaded, result.read, imageIds],
  );

  // What was made from one image is looked at on that one.
  const ofImage = shownJob?.pacs?.scope === "image" ? indexOf.get(nameOf({ sop: shownJob.pacs.image_id ?? "", frame: 1 })) : undefined;
  useEffect(() => {
    if (ofImage !== undefined) setIndex(ofImage);
  }, [shownJob?.job_id, ofImage]);

  useLinkedLook(Boolean(shownJob) && shows === "overlay" && resultReady > 0);

  const resultIndex = !isLinked ? ownIndex : shows === "overlay" ? index : frameOf.toFrame(index);
  const named = [...(result.read?.studies ?? []), ...(capture.read ? [capture.read.studyUid] : [])];
  const isElsewhere = IS_UID.test(studyId ?? "") && named.some((uid) => uid !== studyId);
  const isApart = shownJob !== null && shows === "capture" && capture.read !== null && isLinked && !frameOf.isOf(index);
  const onResultIndex = (at: number): void => {
    setOwnIndex(at);
    if (isLinked) setIndex(shows === "overlay" ? at : (frameOf.toImage(at) ?? index));
  };

  const pickTool = (name: ToolName): void => {
    chooseTool(name);
    setTool(name);
  };
  const applyPreset = (name: PresetName | null): void => {
    if (!hasViewport(ORIGINAL)) return;
    const shown = viewport(ORIGINAL);
    if (name === null) shown.resetProperties();
    else shown.setProperties({ voiRange: rangeOf(name) });
    shown.render();
  };
  const reset = (): void => {
    for (const id of [ORIGINAL, RESULT].filter(hasViewport)) {
      const shown = viewport(id);
      shown.resetCamera();
      shown.resetProperties();
      shown.render();
    }
  };
  const isCt = (series?.modality ?? modalityAt(imageIds[index])) === "CT";
  const onKey = (key: string): boolean => {
    const tools: Record<string, ToolName> = { w: "window", p: "pan", z: "zoom", l: "length" };
    const picked = tools[key];
    const preset = PRESET_NAMES[Number(key) - 1];
    if (picked) pickTool(picked);
    else if (preset && isCt) applyPreset(preset);
    else if (key === "0") applyPreset(null);
    else if (key === "r") reset();
    else return false;
    return true;
  };

  if (failure !== null) {
    return (
      <div className="note bad" role="alert">
        <p>{wordsOf(failure, t, "pacs")}</p>
        <button type="button" onClick={() => setTries(tries + 1)}>
          {t("common.retry")}
        </button>
      </div>
    );
  }
  const isLoading = loading !== null && !isLoaded;
  const name = series?.series_description ?? series?.study_description ?? "";
  return (
    <div className="viewer">
      <h1 className="viewer-title">
        {[series?.modality, name, dateOf(series?.date, document.documentElement.lang)].filter(Boolean).join(" · ") || t("viewer.title")}
      </h1>
      <Toolbar
        tool={tool}
        onTool={pickTool}
        hasPresets={isCt}
        onPreset={applyPreset}
        onReset={reset}
        onClear={() => {
          annotation.state.removeAllAnnotations();
          for (const id of [ORIGINAL, RESULT].filter(hasViewport)) viewport(id).render();
        }}
        link={shownJob ? { isOn: isLinked, onChange: setLinked } : null}
      />
      <div className={`views ${shownJob && resultIds.length ? "views-two" : ""}`} data-loaded={loading?.done ?? 0}>
        {imageIds.length > 0 && (
          <StackView
            id={ORIGINAL}
            title={t("viewer.original")}
            imageIds={imageIds}
            index={index}
            onIndex={setIndex}
            onKey={onKey}
            note={isLoading ? t("viewer.loading", { n: loading.done, total: loading.total }) : null}
          />
        )}
        {shownJob && resultIds.length > 0 && (
          <StackView
            id={RESULT}
            title={t("viewer.result", { algo: shownJob.algo_id })}
            imageIds={resultIds}
            index={Math.min(resultIndex, resultIds.length - 1)}
            onIndex={onResultIndex}
            onKey={onKey}
            onReady={() => setResultReady((count) => count + 1)}
            remark={isApart ? t("result.otherImage") : null}
          />
        )}
      </div>
      <aside className="side">
        {loading !== null && loading.cut > 0 && (
          <p className="note bad" role="alert">
            {t(loading.cut === 1 ? "viewer.cut.one" : "viewer.cut", { n: loading.cut })}
          </p>
        )}
        {loading !== null && loading.failed > 0 && isLoaded && (
          <div className="note bad" role="alert">
            <p>{t(loading.failed === 1 ? "viewer.failed.one" : "viewer.failed", { n: loading.failed })}</p>
            <button type="button" onClick={() => setTries(tries + 1)}>
              {t("common.retry")}
            </button>
          </div>
        )}
        {shownJob && (
          <ResultPanel
            job={shownJob}
            read={result.read}
            isElsewhere={isElsewhere}
            failure={result.failure ?? result.read?.failure ?? capture.failure}
            unplaced={unplaced}
            view={shows}
            onView={setView}
            opacity={opacity}
            onOpacity={setOpacity}
            onSegment={(segment, isVisible) => overlay.current?.setVisible(segment, isVisible)}
            onPng={() =>
              resultIds.length ? savePng(RESULT, shownJob.algo_id, resultIndex) : savePng(ORIGINAL, ORIGINAL, index)
            }
            onClose={() => here && opened.set({ ...here, jobId: null })}
          />
        )}
        {series && <RunPanel series={series} sopOf={() => sopAt(imageIds[index])} />}
      </aside>
    </div>
  );
}

const NO_IDS: string[] = [];
/** A study may also be asked for by its place in the PACS, which tells nothing here. */
const IS_UID = /^[0-9.]+$/;

interface Kept {
  images: ImageLink[];
  ids: string[];
  index: number;
}

/** The series that was open last: who comes back from another screen finds it as it was left. */
let kept: Kept | null = null;

async function idsOf(platform: Platform, studyId: string, seriesId: string, isAnew: boolean): Promise<Kept> {
  const images = await imagesOf(platform, studyId, seriesId, isAnew);
  if (kept && (kept.images === images || (!isAnew && isHere(kept, images)))) return kept;
  release();
  // A result's files are numbered from the first again: what was measured on one is not another's.
  for (const { annotationUID, metadata } of annotation.state.getAllAnnotations()) {
    const isOnResult = metadata?.referencedImageId?.startsWith("dicomfile:");
    if (isOnResult && annotationUID) annotation.state.removeAnnotation(annotationUID);
  }
  const ids = images.map((image) => `wadouri:${image.url}`);
  kept = { images, ids, index: Math.floor(ids.length / 2) };
  return kept;
}

/** Whether these images are loaded, so that what their links are now is nobody's matter. */
function isHere({ images, ids }: Kept, asked: readonly ImageLink[]): boolean {
  const isSame = images.length === asked.length && images.every(({ key }, at) => key === asked[at]?.key);
  return isSame && ids.every((id) => cache.isLoaded(id));
}

function useResult(job: Job | null): { read: ReadResult | null; failure: unknown } {
  const [state, setState] = useState<{ id: string; read: ReadResult | null; failure: unknown } | null>(null);
  const id = job?.job_id;
  useEffect(() => {
    if (!job || !id) return;
    const stop = new AbortController();
    readResult(job, stop.signal)
      .then((read) => setState({ id, read, failure: null }))
      .catch((failure: unknown) => !stop.signal.aborted && setState({ id, read: null, failure }));
    return () => stop.abort();
    // The addresses of the same result are signed anew with every answer.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [id]);
  return state && state.id === id ? state : { read: null, failure: null };
}

function useCapture(result: ReadResult | null, isWanted: boolean): { read: ReadCapture | null; failure: unknown } {
  const [state, setState] = useState<{ of: ReadResult; read: ReadCapture | null; failure: unknown } | null>(null);
  useEffect(() => {
    if (!result?.capture || !isWanted || state?.of === result) return;
    const stop = new AbortController();
    readCaptureFile(result.capture, stop.signal)
      .then((read) => setState({ of: result, read, failure: null }))
      .catch((failure: unknown) => !stop.signal.aborted && setState({ of: result, read: null, failure }));
    return () => stop.abort();
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [result, isWanted]);
  return state && state.of === result ? state : { read: null, failure: null };
}

/** Window, zoom and pan of both views are one while they show the same images. */
function useLinkedLook(isOn: boolean): void {
  useEffect(() => {
    if (!isOn) return;
    const made = [
      synchronizers.createVOISynchronizer("mip-window", { syncInvertState: true, syncColormap: false }),
      synchronizers.createZoomPanSynchronizer("mip-zoom"),
    ];
    for (const one of made) {
      for (const viewportId of [ORIGINAL, RESULT]) one.add({ renderingEngineId: ENGINE_ID, viewportId });
    }
    const range = viewport(ORIGINAL).getProperties().voiRange;
    if (range) viewport(RESULT).setProperties({ voiRange: range });
    viewport(RESULT).render();
    return () => made.forEach((one) => SynchronizerManager.destroySynchronizer(one.id));
  }, [isOn]);
}

function sopAt(imageId: string | undefined): string | undefined {
  if (!imageId) return undefined;
  return (metaData.get("sopCommonModule", imageId) as { sopInstanceUID?: string } | undefined)?.sopInstanceUID;
}

function modalityAt(imageId: string | undefined): string | undefined {
  if (!imageId) return undefined;
  return (metaData.get("generalSeriesModule", imageId) as { modality?: string } | undefined)?.modality;
}

function sourceAt(imageId: string): Source | null {
  const sop = sopAt(imageId);
  return sop ? { sop, frame: frameNumber(imageId) } : null;
}

const nameOf = ({ sop, frame }: Source): string => `${sop}#${frame ?? 1}`;

function sourceIndex(imageIds: string[], isLoaded: boolean): Map<string, number> {
  const known = new Map<string, number>();
  if (!isLoaded) return known;
  imageIds.forEach((imageId, index) => {
    const source = sourceAt(imageId);
    if (source) known.set(nameOf(source), index);
  });
  return known;
}

/**
 * Which frame of a capture was made from which image, both ways; by place where its header doesn't tell and there are as
 * many. Of an image without one it is the nearest one's, and ``isOf`` says so.
 */
function framesOf(capture: ReadCapture | null, images: number, indexOf: Map<string, number>) {
  const toImage = capture?.sources.map((source) => indexOf.get(nameOf(source))) ?? [];
  const isKnown =
    capture !== null &&
    toImage.length === capture.frames &&
    toImage.every((at) => at !== undefined) &&
    new Set(toImage).size === toImage.length; // else the file is named, and not which of its frames
  if (!isKnown) {
    const isByPlace = capture?.frames === images;
    return {
      toFrame: (image: number) => (isByPlace ? image : 0),
      toImage: (frame: number) => (isByPlace ? frame : null),
      isOf: () => isByPlace,
    };
  }
  const made = toImage as number[];
  const toFrame = new Map(made.map((image, frame) => [image, frame]));
  return {
    toFrame: (image: number) => toFrame.get(image) ?? nearest(made, image),
    toImage: (frame: number) => made[frame] ?? null,
    isOf: (image: number) => toFrame.has(image),
  };
}

function nearest(all: readonly number[], value: number): number {
  const distance = (at: number): number => Math.abs((all[at] ?? Infinity) - value);
  return all.reduce((best, _, at) => (distance(at) < distance(best) ? at : best), 0);
}

function savePng(id: string, name: string, index: number): void {
  viewport(id)
    .getCanvas()
    .toBlob((blob) => blob && saveBlob(blob, `${name}-${index + 1}.png`), "image/png");
}
