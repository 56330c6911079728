import { useEffect, useId, useState } from "react";

import { ApiError } from "../api/http";
import type { Platform, SeriesList } from "../api/platform";
import type { Series } from "../api/types";
import { language, useWords } from "../i18n";
import type { Translate } from "../i18n";
import { Failure } from "../parts/Failure";
import { Thumbnail } from "../parts/Thumbnail";
import { connection } from "../state/connection";
import { openSeries } from "../state/route";
import { session } from "../state/session";
import { useStore } from "../state/store";

const FIRST = 100;
const MOST = 1000;
const MOST_CHARS = 200;
const UID = /^[0-9]+(\.[0-9]+){3,}$/;

interface Found extends SeriesList {
  asked: string;
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
    const gone = new AbortController();
    setFailure(null);
    find(platform, asked, limit, gone.signal)
      .then((list) => !gone.signal.aborted && setFound({ ...list, asked, limit }))
      .catch((error: unknown) => !gone.signal.aborted && setFailure(error));
    return () => gone.abort();
  }, [platform, asked, limit, tries]);

  const isOpen = useStore(connection).state === "open";
  useEffect(() => {
    // The platform was away, and is back.
    if (isOpen && failure instanceof ApiError && failure.isAway) setTries((before) => before + 1);
    // Only a connection that opens asks again: one that is open while the PACS is away does not.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [isOpen]);

  // What was found for other words is not what is being looked for.
  const list = found?.asked === asked ? found : null;
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
          maxLength={MOST_CHARS}
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
      {list === null && failure === null && (
        <p className="quiet" role="status">
          {t(asked ? "find.searching" : "common.loading")}…
        </p>
      )}
      {list !== null && (
        <>
          <p className="quiet" role="status">
            {said(list, t)}
          </p>
          {byStudy(list.series).map((study) => (
            <Study key={study[0].study_id} series={study} />
          ))}
          {endsEarly(list) && list.limit < MOST && (
            <button type="button" onClick={() => setLimit(Math.min(MOST, limit * 3))}>
              {t("find.more")}
            </button>
          )}
        </>
      )}
    </>
  );
}

/** A pasted UID may be a study's or a series', which only the PACS can tell; or the beginning of one. */
async function find(platform: Platform, text: string, limit: number, signal: AbortSignal): Promise<SeriesList> {
  if (!text) return platform.series({ limit }, signal);
  if (UID.test(text)) {
    const asked = [{ study_id: text, limit }, { series_id: text, limit }];
    const both = await Promise.all(asked.map((one) => platform.series(one, signal)));
    const series = both.flatMap((one) => one.series);
    if (series.length > 0) return { series, isMore: both.some((one) => one.isMore) };
  }
  return platform.search({ search: text, limit }, signal);
}

function endsEarly(list: Found): boolean {
  return list.isMore && list.series.length >= list.limit;
}

/** How many there are, and whether these are all. */
function said(list: Found, t: Translate): string {
  const n = list.series.length;
  if (endsEarly(list)) return t("find.first", { n });
  const count = n === 0 ? t(list.asked ? "find.empty" : "find.none") : n === 1 ? t("find.count.one") : t("find.count", { n });
  return list.isMore ? `${count} ${t("find.partly")}` : count;
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
