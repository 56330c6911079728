import { useState } from "react";

import type { Job, JobStatus } from "../api/types";
import { language, useWords, wordsOf } from "../i18n";
import { detail, FailureWords, StatusBadge } from "../parts/JobFacts";
import { cancelJob, isOpen, jobs as jobsStore, loadMoreJobs, orderOf, seriesOf, submitJob } from "../state/jobs";
import { openSeries } from "../state/route";
import { useStore } from "../state/store";

const STATUSES: readonly JobStatus[] = ["QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"];
/** How many rows are drawn; more are on request, so that a page with thousands of jobs stays quick. */
const FIRST = 100;

export function Jobs() {
  const t = useWords();
  const { jobs, nextCursor, isLoaded } = useStore(jobsStore);
  const [status, setStatus] = useState<JobStatus | "">("");
  const [algo, setAlgo] = useState("");
  const [most, setMost] = useState(FIRST);
  const [failure, setFailure] = useState<unknown>(null);
  const algorithms = [...new Set(jobs.map((job) => job.algo_id))].sort();
  const matching = jobs.filter((job) => (!status || job.status === status) && (!algo || job.algo_id === algo));
  const shown = matching.slice(0, most);

  const act = (what: Promise<unknown>): void => {
    setFailure(null);
    what.catch(setFailure);
  };
  const more = async (): Promise<void> => {
    if (matching.length <= most) await loadMoreJobs();
    setMost(most + FIRST);
  };

  return (
    <>
      <h1>{t("jobs.title")}</h1>
      <div className="filters">
        <label>
          <span>{t("jobs.filter.status")}</span>
          <select value={status} onChange={(event) => setStatus(event.target.value as JobStatus | "")}>
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
          <select value={algo} onChange={(event) => setAlgo(event.target.value)}>
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
      {(matching.length > most || nextCursor !== null) && (
        <button type="button" onClick={() => act(more())}>
          {t("jobs.more")}
        </button>
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
