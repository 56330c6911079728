import { useEffect, useState } from "react";

import type { Statistics, StatisticsBucket } from "../api/types";
import { duration, useWords } from "../i18n";
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
      <Bars buckets={read.buckets} />
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

/** Jobs a bucket as bars, failures on top. */
function Bars({ buckets }: { buckets: StatisticsBucket[] }) {
  const t = useWords();
  const sum = (kind: "succeeded" | "failed") => buckets.reduce((total, bucket) => total + bucket[kind], 0);
  const most = Math.max(1, ...buckets.map((bucket) => bucket.succeeded + bucket.failed));
  const width = 240 / Math.max(1, buckets.length);
  const label = t("algorithms.plot", { done: sum("succeeded"), failed: sum("failed") });
  return (
    <svg className="plot" viewBox="0 0 240 64" preserveAspectRatio="none" role="img" aria-label={label}>
      <line className="axis" x1="0" y1="63.5" x2="240" y2="63.5" />
      {buckets.map((bucket, at) => {
        const done = (60 * bucket.succeeded) / most;
        const failed = (60 * bucket.failed) / most;
        return (
          <g key={bucket.at}>
            <rect className="done" x={at * width} y={63 - done} width={width * 0.8} height={done} />
            <rect className="failed" x={at * width} y={63 - done - failed} width={width * 0.8} height={failed} />
          </g>
        );
      })}
    </svg>
  );
}
