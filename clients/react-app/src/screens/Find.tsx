import { useEffect, useId, useState } from "react";

import type { Series } from "../api/types";
import { language, useWords } from "../i18n";
import { Failure } from "../parts/Failure";
import { Thumbnail } from "../parts/Thumbnail";
import { openSeries } from "../state/route";
import { session } from "../state/session";
import { useStore } from "../state/store";

const FIRST = 100;
const MOST = 1000;
const UID = /^[0-9]+(\.[0-9]+){3,}$/;

interface Found {
  series: Series[];
  limit: number;
}

export function Find() {
  const t = useWords();
  const platform = useStore(session)?.platform;
  const [typed, setTyped] = useState("");
  const [asked, setAsked] = useState("");
  const [limit, setLimit] = useState(FIRST);
  const [found, setFound] = useState<Found | null>(null);
  const [failure, setFailure] = useState<unknown>(null);
  const [tries, setTries] = useState(0);
  const field = useId();

  useEffect(() => {
    if (platform === undefined) return;
    let isCurrent = true;
    find(platform.series.bind(platform), asked, limit)
      .then((series) => {
        if (!isCurrent) return;
        setFound({ series, limit });
        setFailure(null);
      })
      .catch((error: unknown) => isCurrent && setFailure(error));
    return () => {
      isCurrent = false;
    };
  }, [platform, asked, limit, tries]);

  const shown = found === null ? [] : found.series.filter((one) => matches(one, asked));
  return (
    <>
      <h1>{t("find.title")}</h1>
      <form
        role="search"
        className="search"
        onSubmit={(event) => {
          event.preventDefault();
          setAsked(typed.trim());
          setTries(tries + 1);
        }}
      >
        <label htmlFor={field} className="hidden">
          {t("find.search")}
        </label>
        <input
          id={field}
          type="search"
          value={typed}
          placeholder={t("find.search")}
          spellCheck={false}
          onChange={(event) => setTyped(event.target.value)}
        />
        <button type="submit" className="main">
          {t("find.button")}
        </button>
      </form>
      {failure !== null && (
        <Failure error={failure} place="pacs">
          <button type="button" onClick={() => setTries(tries + 1)}>
            {t("common.retry")}
          </button>
        </Failure>
      )}
      {found === null && failure === null && <p className="quiet">{t("common.loading")}…</p>}
      {found !== null && (
        <>
          <p className="quiet" role="status">
            {shown.length === 0
              ? t(asked ? "find.empty" : "find.none")
              : t(shown.length === 1 ? "find.count.one" : "find.count", { n: shown.length })}
          </p>
          {byStudy(shown).map((study) => (
            <Study key={study[0].study_id} series={study} />
          ))}
          {found.series.length === found.limit && found.limit < MOST && (
            <button type="button" onClick={() => setLimit(Math.min(MOST, limit * 3))}>
              {t("find.more")}
            </button>
          )}
        </>
      )}
    </>
  );
}

type Ask = (asked: { study_id?: string; series_id?: string; search?: string; limit?: number }) => Promise<Series[]>;

/** A pasted UID may be a study's or a series', which only the PACS can tell. */
async function find(ask: Ask, text: string, limit: number): Promise<Series[]> {
  if (!UID.test(text)) return ask(text ? { search: text, limit } : { limit });
  const both = await Promise.all([ask({ study_id: text, limit }), ask({ series_id: text, limit })]);
  return both.flat();
}

function matches(series: Series, text: string): boolean {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const said = [
    series.study_id,
    series.series_id,
    series.modality,
    series.date,
    dateOf(series.date, "en"),
    series.study_description,
    series.series_description,
  ]
    .join(" ")
    .toLowerCase();
  return words.every((word) => said.includes(word));
}

type OfStudy = [Series, ...Series[]];

/** In the order in which the studies first come. */
function byStudy(all: Series[]): OfStudy[] {
  const studies = new Map<string, OfStudy>();
  for (const one of all) {
    const known = studies.get(one.study_id);
    if (known) known.push(one);
    else studies.set(one.study_id, [one]);
  }
  return [...studies.values()];
}

function Study({ series }: { series: OfStudy }) {
  const t = useWords();
  const here = useStore(language);
  const [first] = series;
  const title = useId();
  return (
    <section className="study" aria-labelledby={title}>
      <h2 id={title}>
        {[first.study_description || t("find.study"), dateOf(first.date, here)].filter(Boolean).join(" · ")}
        <span className="uid" title={first.study_id}>
          {first.study_id}
        </span>
      </h2>
      <ul className="series-list">
        {series.map((one) => (
          <SeriesCard key={one.series_id} series={one} />
        ))}
      </ul>
    </section>
  );
}

function SeriesCard({ series }: { series: Series }) {
  const t = useWords();
  const name = series.series_description || t("find.noDescription");
  const count = series.images === 1 ? t("find.image") : t("find.images", { n: series.images ?? "?" });
  return (
    <li>
      <button type="button" className="series-card" onClick={() => openSeries(series)}>
        <Thumbnail studyId={series.study_id} seriesId={series.series_id} modality={series.modality} />
        <span className="series-words">
          <strong>{name}</strong>
          <span>{[series.modality, count].filter(Boolean).join(" · ")}</span>
          <span className="uid" title={series.series_id}>
            {series.series_id}
          </span>
        </span>
      </button>
    </li>
  );
}

/** DICOM's YYYYMMDD as people of the language write it. */
export function dateOf(date: string | null | undefined, lang: string): string {
  const parts = /^(\d{4})(\d{2})(\d{2})$/.exec(date ?? "");
  if (!parts) return date ?? "";
  const day = new Date(Date.UTC(Number(parts[1]), Number(parts[2]) - 1, Number(parts[3])));
  return day.toLocaleDateString(lang, { timeZone: "UTC", year: "numeric", month: "short", day: "numeric" });
}
