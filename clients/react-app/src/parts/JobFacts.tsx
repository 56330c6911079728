import type { Job } from "../api/types";
import { duration, useWords } from "../i18n";
import { Failure } from "./Failure";

/** State, place in the queue or progress, time; and the reason of a failure with what to do about it. */
export function JobFacts({ job }: { job: Job }) {
  const t = useWords();
  return (
    <div className="job-facts">
      <p className="job-line">
        <StatusBadge status={job.status} />
        <span className="quiet">{detail(job, t)}</span>
      </p>
      {job.status === "RUNNING" && (
        <progress aria-label={t("job.progress")} max={1} value={job.progress ?? undefined} />
      )}
      <JobTrouble job={job} />
    </div>
  );
}

export function StatusBadge({ status }: { status: Job["status"] }) {
  const t = useWords();
  return <span className={`badge is-${status}`}>{t(`job.${status}`)}</span>;
}

/** Why it failed, or what the last attempt came to; and how the result's way into the PACS goes. */
export function JobTrouble({ job }: { job: Job }) {
  const t = useWords();
  const { stored } = job;
  return (
    <>
      {job.error && (
        <Failure error={job.error} isAlert={false}>
          {job.status !== "FAILED" && <p>{t("job.triedAgain")}</p>}
        </Failure>
      )}
      {stored && <p className="quiet small">{t(`stored.${stored.status}`)}</p>}
      {stored?.error && <Failure error={stored.error} isAlert={false} />}
    </>
  );
}

export function detail(job: Job, t: ReturnType<typeof useWords>): string {
  switch (job.status) {
    case "QUEUED":
      if (job.queue_position == null) return "";
      return job.queue_position === 1 ? t("job.next") : t("job.position", { n: job.queue_position });
    case "RUNNING": {
      const left = leftS(job, Date.now());
      const part = job.progress ? `${Math.round(job.progress * 100)} %` : "";
      return [part, left === null ? "" : t("job.left", { time: duration(left) })].filter(Boolean).join(" · ");
    }
    default: {
      const ran = ranS(job);
      return ran === null ? "" : t("job.took", { time: duration(ran) });
    }
  }
}

/** Seconds that a running job still takes: by its progress, else by what its algorithm's jobs take. */
export function leftS(job: Job, nowMs: number): number | null {
  if (!job.started_at) return null;
  const elapsed = Math.max(0, (nowMs - Date.parse(job.started_at)) / 1000);
  if (job.progress && job.progress > 0.05) return (elapsed * (1 - job.progress)) / job.progress;
  return job.expected_s ? Math.max(1, job.expected_s - elapsed) : null;
}

export function ranS(job: Job): number | null {
  if (!job.started_at || !job.finished_at) return null;
  return Math.max(0, (Date.parse(job.finished_at) - Date.parse(job.started_at)) / 1000);
}
