import { useEffect, useState } from "react";

import type { Job, JobStatus } from "../api/types";
import { language, useWords } from "../i18n";
import { Failure } from "../parts/Failure";
import { detail, JobTrouble, StatusBadge } from "../parts/JobFacts";
import { connection } from "../state/connection";
import {
  cancelJob,
  isOpen,
  jobs as jobsStore,
  keyOf,
  loadMoreJobs,
  openResult,
  refreshJobs,
  runAgain,
  shownOf,
} from "../state/jobs";
import type { Filter } from "../state/jobs";
import { go } from "../state/route";
import { session } from "../state/session";
import { useStore } from "../state/store";

const STATUSES: readonly JobStatus[] = ["QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"];
/** Rows drawn at a time, so that somebody with thousands of jobs has a quick page. */
const PAGE = 100;

export function Jobs() {
  const t = useWords();
  const { jobs, listings } = useStore(jobsStore);
  const [filter, setFilter] = useState<Filter>({ status: "", algoId: "" });
  const [page, setPage] = useState(0);
  const [failure, setFailure] = useState<unknown>(null);
  const [isLoading, setLoading] = useState(false);
  const algorithms = useAlgorithmIds(jobs);
  const isConnected = useStore(connection).state === "open";
  const listing = listings.get(keyOf(filter));
  const matching = shownOf(jobs, filter, listing);
  const last = Math.max(0, Math.ceil(matching.length / PAGE) - 1);
  const at = Math.min(page, last);
  const shown = matching.slice(at * PAGE, (at + 1) * PAGE);
  const hasMore = listing !== undefined && listing.nextCursor !== null;

  // The platform is asked for what fits: it has more than this page has read.
  useEffect(() => {
    let isCurrent = true;
    refreshJobs(filter)
      .then(() => isCurrent && setFailure(null))
      .catch((error: unknown) => isCurrent && setFailure(error));
    return () => {
      isCurrent = false;
    };
  }, [filter, isConnected]);

  const choose = (change: Partial<Filter>): void => {
    setFilter({ ...filter, ...change });
    setPage(0);
  };
  const act = (what: Promise<unknown>): void => {
    setFailure(null);
    what.catch(setFailure);
  };
  const goOlder = async (): Promise<void> => {
    if (at === last) {
      setLoading(true);
      await loadMoreJobs(filter).finally(() => setLoading(false));
    }
    setPage(at + 1);
  };

  return (
    <>
      <h1>{t("jobs.title")}</h1>
      <div className="filters">
        <label>
          <span>{t("jobs.filter.status")}</span>
          <select value={filter.status} onChange={(event) => choose({ status: event.target.value as JobStatus | "" })}>
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
          <select value={filter.algoId} onChange={(event) => choose({ algoId: event.target.value })}>
            <option value="">{t("jobs.filter.all")}</option>
            {algorithms.map((one) => (
              <option key={one}>{one}</option>
            ))}
          </select>
        </label>
      </div>
      {failure !== null && <Failure error={failure} />}
      {!listing && failure === null && <p className="quiet" role="status">{t("common.loading")}…</p>}
      {listing && shown.length === 0 && (
        <div className="empty">
          <p>{t(filter.status || filter.algoId ? "jobs.emptyFilter" : "jobs.empty")}</p>
          {!filter.status && !filter.algoId && (
            <button type="button" className="main" onClick={() => go("find")}>
              {t("viewer.choose")}
            </button>
          )}
        </div>
      )}
      {shown.length > 0 && (
        <table className="rows jobs">
          <thead>
            <tr>
              <th scope="col">{t("jobs.col.status")}</th>
              <th scope="col">{t("jobs.col.algorithm")}</th>
              <th scope="col">{t("jobs.col.input")}</th>
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
      {(at > 0 || at < last || hasMore) && (
        <div className="actions">
          <button type="button" disabled={at === 0} onClick={() => setPage(at - 1)}>
            {t("jobs.newer")}
          </button>
          <button type="button" disabled={isLoading || (at === last && !hasMore)} onClick={() => act(goOlder())}>
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
  return (
    <tr data-job={job.job_id} data-status={job.status}>
      <td>
        <StatusBadge status={job.status} />
      </td>
      <td>
        <strong className="name">{job.algo_id}</strong>
        <span className="uid" title={job.job_id}>
          {job.job_id}
        </span>
        <JobTrouble job={job} />
      </td>
      <td>
        <Input pacs={job.pacs} />
      </td>
      <td data-label={t("jobs.col.created")}>
        {new Date(job.created_at).toLocaleString(lang, { dateStyle: "short", timeStyle: "medium" })}
      </td>
      <td>{detail(job, t)}</td>
      <td>
        <div className="actions">
          {job.status === "SUCCEEDED" && job.pacs && (
            <button type="button" onClick={() => act(openResult(job))}>
              {t("job.show")}
            </button>
          )}
          {job.status === "QUEUED" && (
            <button type="button" onClick={() => act(cancelJob(job.job_id))}>
              {t("job.cancel")}
            </button>
          )}
          {!isOpen(job) && job.pacs && (
            <button type="button" onClick={() => act(runAgain(job))}>
              {t("run.again")}
            </button>
          )}
        </div>
      </td>
    </tr>
  );
}

/** What was processed: how much of a study, and the id of that. */
function Input({ pacs }: { pacs: Job["pacs"] }) {
  const t = useWords();
  if (pacs === null) return <span className="quiet">–</span>;
  const id = { image: pacs.image_id, series: pacs.series_id, study: pacs.study_id }[pacs.scope] ?? pacs.study_id;
  return (
    <>
      {t(`scope.${pacs.scope}`)}
      <span className="uid" title={id}>
        {id}
      </span>
    </>
  );
}

/** Those that there are, and those that jobs name: one may have been removed since. */
function useAlgorithmIds(jobs: Job[]): string[] {
  const here = useStore(session);
  const [offered, setOffered] = useState<string[]>([]);
  useEffect(() => {
    if (here === null) return;
    let isCurrent = true;
    here.platform
      .algorithms()
      .then((found) => isCurrent && setOffered(found.map((one) => one.algo_id)))
      .catch(() => undefined); // those of the jobs are there
    return () => {
      isCurrent = false;
    };
  }, [here]);
  return [...new Set([...offered, ...jobs.map((job) => job.algo_id)])].sort();
}
