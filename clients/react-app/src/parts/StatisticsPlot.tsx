import { useEffect, useState } from "react";
import type { ReactNode } from "react";

import type { Statistics } from "../api/types";
import { duration, language, useWords } from "../i18n";
import { session } from "../state/session";
import { useStore } from "../state/store";

const EVERY_MS = 5000;
const HOURS = 24;

export function StatisticsPlot({ algoId }: { algoId: string }) {
  const t = useWords();
  const here = useStore(session);
  const [known, setKnown] = useState<{ of: string; read: Statistics | null } | null>(null);

  useEffect(() => {
    if (here === null) return;
    let isCurrent = true;
    const look = (): void => {
      here.platform
        .statistics(algoId, HOURS)
        .then((read) => isCurrent && setKnown({ of: algoId, read }))
        .catch(() => isCurrent && setKnown({ of: algoId, read: null }));
    };
    look();
    const timer = setInterval(look, EVERY_MS);
    return () => {
      isCurrent = false;
      clearInterval(timer);
    };
  }, [algoId, here]);

  if (known === null || known.of !== algoId) return null;
  const read = known.read;
  if (read === null) return null; // what is wrong with the connection is said elsewhere
  const time = (seconds: number | null | undefined) => (seconds == null ? "–" : duration(seconds));
  return (
    <section aria-label={t("algorithms.statistics")}>
      <h3>{t("algorithms.statistics")}</h3>
      <div className="plots">
        <Bars read={read} />
        <Times read={read} />
      </div>
      <dl className="facts">
        {(
          [
            ["algorithms.stat.queue", read.waiting],
            ["algorithms.stat.running", read.running],
            ["algorithms.stat.median", time(read.durations?.median_s)],
            ["algorithms.stat.p95", time(read.durations?.p95_s)],
            ["algorithms.stat.oldest", time(read.oldest_wait_s)],
          ] as const
        ).map(([key, value]) => (
          <div key={key}>
            <dt>{t(key)}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </section>
  );
}

const WIDE = 240;
const HIGH = 60;

interface PlotProps {
  title: string;
  /** All of it in words, for those who don't see it. */
  words: string;
  /** What the highest place of the plot stands for. */
  top: string;
  since: string;
  children: ReactNode;
}

function Plot({ title, words, top, since, children }: PlotProps) {
  const t = useWords();
  return (
    <figure className="plot-box">
      <figcaption>
        {title} <span className="quiet">{top}</span>
      </figcaption>
      <svg className="plot" viewBox={`0 0 ${WIDE} ${HIGH + 4}`} preserveAspectRatio="none" role="img" aria-label={words}>
        <line className="axis" x1="0" y1={HIGH + 3.5} x2={WIDE} y2={HIGH + 3.5} />
        {children}
      </svg>
      <div className="plot-ends" aria-hidden="true">
        <span>{since}</span>
        <span>{t("plot.now")}</span>
      </div>
    </figure>
  );
}

function useSince(read: Statistics): string {
  const lang = useStore(language);
  const first = read.buckets[0]?.at;
  return first ? new Date(first).toLocaleTimeString(lang, { hour: "2-digit", minute: "2-digit" }) : "";
}

/** Jobs a bucket as bars, failures on top. */
function Bars({ read }: { read: Statistics }) {
  const t = useWords();
  const since = useSince(read);
  const { buckets } = read;
  const sum = (kind: "succeeded" | "failed") => buckets.reduce((total, bucket) => total + bucket[kind], 0);
  const most = Math.max(...buckets.map((bucket) => bucket.succeeded + bucket.failed));
  const width = WIDE / Math.max(1, buckets.length);
  const minutes = Math.round(read.bucket_s / 60);
  const words = t("plot.jobs.words", { done: sum("succeeded"), failed: sum("failed"), most, minutes });
  return (
    <Plot title={t("plot.jobs", { minutes })} words={words} top={t("plot.top", { n: most })} since={since}>
      {buckets.map((bucket, at) => {
        const done = (HIGH * bucket.succeeded) / Math.max(1, most);
        const failed = (HIGH * bucket.failed) / Math.max(1, most);
        return (
          <g key={bucket.at}>
            <rect className="done" x={at * width} y={HIGH + 3 - done} width={width * 0.8} height={done} />
            <rect className="failed" x={at * width} y={HIGH + 3 - done - failed} width={width * 0.8} height={failed} />
          </g>
        );
      })}
    </Plot>
  );
}

/** What jobs took: a bar from the median up to the 95th percentile of each bucket. */
function Times({ read }: { read: Statistics }) {
  const t = useWords();
  const since = useSince(read);
  const { buckets, durations } = read;
  const longest = Math.max(0, ...buckets.map((bucket) => bucket.durations?.p95_s ?? 0));
  const width = WIDE / Math.max(1, buckets.length);
  const placeOf = (seconds: number) => HIGH + 3 - (longest ? (HIGH * seconds) / longest : 0);
  const words = durations
    ? t("plot.times.words", { median: duration(durations.median_s), p95: duration(durations.p95_s), most: duration(longest) })
    : t("plot.times.none");
  return (
    <Plot title={t("plot.times")} words={words} top={durations ? t("plot.top", { n: duration(longest) }) : ""} since={since}>
      {buckets.map((bucket, at) => {
        if (!bucket.durations) return null;
        const [median, p95] = [placeOf(bucket.durations.median_s), placeOf(bucket.durations.p95_s)];
        return (
          <g key={bucket.at}>
            <rect className="spread" x={at * width} y={p95} width={width * 0.8} height={Math.max(1, median - p95)} />
            <rect className="median" x={at * width} y={median - 1} width={width * 0.8} height="3" />
          </g>
        );
      })}
    </Plot>
  );
}
