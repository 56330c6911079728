import { useEffect, useState } from "react";
import type { FormEvent } from "react";

import type { Offer, PacsRef } from "../api/types";
import { useWords, wordsOf } from "../i18n";
import { cancelJob, isOpen, jobs, runAgain, submitJob } from "../state/jobs";
import { opened } from "../state/route";
import type { Opened } from "../state/route";
import { session } from "../state/session";
import { useStore } from "../state/store";
import { Failure } from "./Failure";
import { JobFacts } from "./JobFacts";
import { defaultsOf, ParameterFields } from "./ParameterFields";
import type { Parameters } from "./ParameterFields";

type Scope = PacsRef["scope"];
const ALGORITHMS_EVERY_MS = 3000;

interface Props {
  series: Opened["series"];
  /** SOP Instance UID of the image in sight, once that is loaded. */
  sopOf: () => string | undefined;
}

/** Choose an algorithm and what it gets, send the job, and follow it. */
export function RunPanel({ series, sopOf }: Props) {
  const t = useWords();
  const here = useStore(opened);
  const known = useAlgorithms();
  const [algoId, setAlgoId] = useState("");
  const [scope, setScope] = useState<Scope>("series");
  const [parameters, setParameters] = useState<Parameters>({});
  const [isSending, setSending] = useState(false);
  const [failure, setFailure] = useState<unknown>(null);
  const all = useStore(jobs).jobs;
  const job = here?.jobId ? all.find((one) => one.job_id === here.jobId) : undefined;
  const active = known.algorithms?.filter((one) => one.takes_jobs) ?? null;
  // One that goes while it is chosen is not replaced by another, which nobody chose.
  const first = active?.[0]?.algo_id;
  useEffect(() => {
    if (!algoId && first) setAlgoId(first);
  }, [algoId, first]);
  const chosen = active?.find((one) => one.algo_id === algoId);
  const target = chosen?.algo_id ?? "";

  const send = async (sending: () => Promise<string | null>): Promise<void> => {
    setSending(true);
    setFailure(null);
    try {
      const jobId = await sending();
      // Somebody may have opened another series meanwhile, beside which the result has no place.
      const now = opened.get();
      const isSame = now?.series.study_id === series.study_id && now.series.series_id === series.series_id;
      if (isSame && jobId !== null) opened.set({ ...now, jobId });
    } catch (error) {
      setFailure(error);
    } finally {
      setSending(false);
    }
  };

  const onSubmit = (event: FormEvent): void => {
    event.preventDefault();
    const sop = sopOf();
    if (scope === "image" && !sop) return;
    const pacs: PacsRef = {
      study_id: series.study_id,
      ...(scope === "study" ? {} : { series_id: series.series_id }),
      ...(scope === "image" ? { image_id: sop } : {}),
      scope,
    };
    const given = chosen?.parameters ? { ...defaultsOf(chosen.parameters), ...parameters } : parameters;
    void send(() => submitJob({ algoId: target, pacs, parameters: given }));
  };

  return (
    <section className="panel" aria-label={t("run.title")}>
      <h2>{t("run.title")}</h2>
      <form className="form" onSubmit={onSubmit}>
        <label>
          <span>{t("run.algorithm")}</span>
          <select
            value={algoId}
            onChange={(event) => {
              if (event.target.value !== algoId) setParameters({});
              setAlgoId(event.target.value);
            }}
            disabled={!active?.length}
          >
            {algoId && active && !chosen && <option value={algoId}>{t("run.gone", { algo: algoId })}</option>}
            {active?.map((one) => (
              <option key={one.algo_id} value={one.algo_id}>
                {one.algo_id}
                {one.queue_depth ? ` (${t("run.waiting", { n: one.queue_depth })})` : ""}
              </option>
            ))}
          </select>
          {active?.length === 0 && <small className="quiet">{t("run.noAlgorithms")}</small>}
          {known.failure !== null && <small className="quiet">{wordsOf(known.failure, t)}</small>}
          {chosen?.description && <small className="quiet">{chosen.description}</small>}
        </label>
        <label>
          <span>{t("run.scope")}</span>
          <select value={scope} onChange={(event) => setScope(event.target.value as Scope)}>
            {(["image", "series", "study"] as const).map((name) => (
              <option key={name} value={name}>
                {t(`run.scope.${name}`)}
              </option>
            ))}
          </select>
        </label>
        <ParameterFields
          key={algoId}
          schema={chosen?.parameters ?? null}
          values={parameters}
          onChange={setParameters}
        />
        <div className="actions">
          <button type="submit" className="main" disabled={isSending || !target}>
            {t("run.start")}
          </button>
        </div>
      </form>
      {failure !== null && <Failure error={failure} />}
      {job && (
        <div className="job-card" role="status" data-job={job.job_id} data-status={job.status}>
          <strong>{job.algo_id}</strong>
          <JobFacts job={job} />
          <div className="actions">
            {job.status === "QUEUED" && (
              <button type="button" onClick={() => void cancelJob(job.job_id).catch(setFailure)}>
                {t("job.cancel")}
              </button>
            )}
            {!isOpen(job) && job.pacs && (
              <button type="button" disabled={isSending} onClick={() => void send(() => runAgain(job))}>
                {t("run.again")}
              </button>
            )}
          </div>
        </div>
      )}
    </section>
  );
}

/** What takes jobs, asked again while the panel is open: an algorithm may be registered meanwhile. */
function useAlgorithms(): { algorithms: Offer[] | null; failure: unknown } {
  const here = useStore(session);
  const [state, setState] = useState<{ algorithms: Offer[] | null; failure: unknown }>({
    algorithms: null,
    failure: null,
  });
  useEffect(() => {
    if (here === null) return;
    let isCurrent = true;
    const look = async (): Promise<void> => {
      try {
        const algorithms = await here.platform.algorithms();
        if (isCurrent) setState({ algorithms, failure: null });
      } catch (failure) {
        if (isCurrent) setState((before) => ({ ...before, failure }));
      }
    };
    const timer = setInterval(() => void look(), ALGORITHMS_EVERY_MS);
    void look();
    return () => {
      isCurrent = false;
      clearInterval(timer);
    };
  }, [here]);
  return state;
}
