import { useState } from "react";

import type { Job, JobStatus } from "../api/types";
import { language, useWords, wordsOf } from "../i18n";
import { detail, FailureWords, StatusBadge } from "../parts/JobFacts";
import { cancelJob, isOpen, jobs as jobsStore, loadMoreJobs, orderOf, seriesOf, submitJob } from "../state/jobs";
import { openSeries } from "../state/route";
import { useStore } from "../state/store";

const STATUSES: readonly JobStatus[] = ["QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"];
/** Rows drawn at a time, so that somebody with thousands of jobs has a quick page. */
const PAGE = 100;

export function Jobs() {
  const t = useWords();
  const { jobs, nextCursor, isLoaded } = useStore(jobsStore);
  const [status, setStatus] = useState<JobStatus | "">("");
  const [algo, setAlgo] = useState("");
  const [page, setPage] = useState(0);
  const [failure, setFailure] = useState<unknown>(null);
  const algorithms = [...new Set(jobs.map((job) => job.algo_id))].sort();
  const matching = jobs.filter((job) => (!status || job.status === status) && (!algo || job.algo_id === algo));
  const last = Math.max(0, Math.ceil(matching.length / PAGE) - 1);
  const at = Math.min(page, last);
  const shown = matching.slice(at * PAGE, (at + 1) * PAGE);

  const act = (what: Promise<unknown>): void => {
    setFailure(null);
    what.catch(setFailure);
  };
  const goOlder = async (): Promise<void> => {
    if (at === last) await loadMoreJobs();
    setPage(at + 1);
  };

  return (
    <>
      <h1>{t("jobs.title")}</h1>
      <div className="filters">
        <label>
          <span>{t("jobs.filter.status")}</span>
          <select value={status} onChange={(event) => {
              setStatus(event.target.value as JobStatus | "");
              setPage(0);
            }}>
            <option value="">{t("jobs.filter.all")}</option>
            {STATUSES.map((one) => (
              <option key={one} value={one}>
                {t(`job.${one}`)}
              </option>
            ))}
          </select>
        </label>
        <label>
          <span>{t("jobs.filter.algorithm")}</span>
          <select value={algo} onChange={(event) => {
              setAlgo(event.target.value);
              setPage(0);
            }}>
            <option value="">{t("jobs.filter.all")}</option>
            {algorithms.map((one) => (
              <option key={one}>{one}</option>
            ))}
          </select>
        </label>
      </div>
      {failure !== null && (
        <p className="note bad" role="alert">
          {wordsOf(failure, t)}
        </p>
      )}
      {!isLoaded && <p className="quiet">{t("common.loading")}…</p>}
      {isLoaded && shown.length === 0 && (
        <p className="quiet">{t(jobs.length ? "jobs.emptyFilter" : "jobs.empty")}</p>
      )}
      {shown.length > 0 && (
        <table className="rows">
          <thead>
            <tr>
              <th scope="col">{t("jobs.col.status")}</th>
              <th scope="col">{t("jobs.col.algorithm")}</th>
              <th scope="col">{t("jobs.col.created")}</th>
              <th scope="col">{t("jobs.col.duration")}</th>
              <th scope="col">{t("jobs.col.actions")}</th>
            </tr>
          </thead>
          <tbody>
            {shown.map((job) => (
              <JobRow key={job.job_id} job={job} act={act} />
            ))}
          </tbody>
        </table>
      )}
      {(at > 0 || at < last || nextCursor !== null) && (
        <div className="actions">
          <button type="button" disabled={at === 0} onClick={() => setPage(at - 1)}>
            {t("jobs.newer")}
          </button>
          <button type="button" disabled={at === last && nextCursor === null} onClick={() => act(goOlder())}>
            {t("jobs.older")}
          </button>
          <span className="quiet paging">{t("jobs.page", { n: at + 1 })}</span>
        </div>
      )}
    </>
  );
}

function JobRow({ job, act }: { job: Job; act: (what: Promise<unknown>) => void }) {
  const t = useWords();
  const lang = useStore(language);
  const order = orderOf(job);
  const series = seriesOf(job);
  return (
    <tr data-job={job.job_id} data-status={job.status}>
      <td>
        <StatusBadge status={job.status} />
      </td>
      <td>
        <strong>{job.algo_id}</strong>
        <span className="uid">{job.job_id}</span>
        {job.status === "FAILED" && job.error && <FailureWords error={job.error} />}
      </td>
      <td>{new Date(job.created_at).toLocaleString(lang, { dateStyle: "short", timeStyle: "medium" })}</td>
      <td>{detail(job, t)}</td>
      <td>
        <div className="actions">
          {job.status === "SUCCEEDED" && series && (
            <button type="button" onClick={() => openSeries(series, job)}>
              {t("job.show")}
            </button>
          )}
          {job.status === "QUEUED" && (
            <button type="button" onClick={() => act(cancelJob(job.job_id))}>
              {t("job.cancel")}
            </button>
          )}
          {!isOpen(job) && order && (
            <button type="button" onClick={() => act(submitJob(order))}>
              {t("run.again")}
            </button>
          )}
        </div>
      </td>
    </tr>
  );
}
