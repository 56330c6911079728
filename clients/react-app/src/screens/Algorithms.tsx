import { useCallback, useEffect, useState } from "react";
import type { FormEvent } from "react";

import { ApiError } from "../api/http";
import type { Algorithm, Offer } from "../api/types";
import { useWords, wordsOf } from "../i18n";
import { Dialog } from "../parts/Dialog";
import { LogTail } from "../parts/LogTail";
import { draftOf, fieldsOf, NEW_DRAFT, SpecForm } from "../parts/SpecForm";
import type { Draft } from "../parts/SpecForm";
import { StatisticsPlot } from "../parts/StatisticsPlot";
import { changeKeys, current, session } from "../state/session";
import { useStore } from "../state/store";

const EVERY_MS = 2000;

export default function Algorithms() {
  const here = useStore(session);
  return here?.platform.keys.admin ? <Registry /> : <Locked />;
}

function Locked() {
  const t = useWords();
  const [key, setKey] = useState("");
  const [failure, setFailure] = useState<unknown>(null);
  const onSubmit = (event: FormEvent): void => {
    event.preventDefault();
    changeKeys({ admin: key });
    current()
      .platform.registry()
      .catch((error: unknown) => {
        setFailure(error);
        if (error instanceof ApiError && error.status === 401) changeKeys({ admin: "" });
      });
  };
  return (
    <>
      <h1>{t("algorithms.title")}</h1>
      <form className="panel form narrow" onSubmit={onSubmit}>
        <p className="quiet">{t("algorithms.locked")}</p>
        <label>
          <span>{t("keys.admin")}</span>
          <input type="password" autoComplete="off" required value={key} onChange={(event) => setKey(event.target.value)} />
        </label>
        {failure !== null && (
          <p className="note bad" role="alert">
            {wordsOf(failure, t)}
          </p>
        )}
        <div className="actions">
          <button type="submit" className="main">
            {t("algorithms.unlock")}
          </button>
        </div>
      </form>
    </>
  );
}

function Registry() {
  const t = useWords();
  const here = useStore(session);
  const [records, setRecords] = useState<Algorithm[] | null>(null);
  const [queues, setQueues] = useState<ReadonlyMap<string, Offer>>(new Map());
  const [failure, setFailure] = useState<unknown>(null);
  const [chosen, setChosen] = useState<string | null>(null);
  const [isAdding, setAdding] = useState(false);

  const look = useCallback(async (): Promise<void> => {
    if (here === null) return;
    try {
      const { algorithms } = await here.platform.registry();
      setRecords(algorithms);
      setFailure(null);
    } catch (error) {
      setFailure(error);
      if (error instanceof ApiError && error.status === 401) changeKeys({ admin: "" });
      return;
    }
    const told = await here.platform.algorithms().catch(() => []);
    setQueues(new Map(told.map((one) => [one.algo_id, one])));
  }, [here]);

  useEffect(() => {
    void look();
    const timer = setInterval(() => void look(), EVERY_MS);
    return () => clearInterval(timer);
  }, [look]);

  const register = async (draft: Draft): Promise<void> => {
    await current().platform.register({ ...fieldsOf(draft), algo_id: draft.id });
    setAdding(false);
    setChosen(draft.id);
    await look();
  };

  const record = records?.find((one) => one.algorithm_id === chosen) ?? null;
  return (
    <>
      <div className="screen-head">
        <h1>{t("algorithms.title")}</h1>
        <div className="actions">
          <button type="button" className="main" onClick={() => setAdding(true)}>
            {t("algorithms.register")}
          </button>
          <button type="button" onClick={() => changeKeys({ admin: "" })}>
            {t("algorithms.lock")}
          </button>
        </div>
      </div>
      {failure !== null && (
        <p className="note bad" role="alert">
          {wordsOf(failure, t)}
        </p>
      )}
      {isAdding && (
        <Dialog title={t("algorithms.register")} onClose={() => setAdding(false)}>
          <SpecForm start={NEW_DRAFT} isNew onSave={register} onCancel={() => setAdding(false)} />
        </Dialog>
      )}
      {records === null && failure === null && <p className="quiet">{t("common.loading")}…</p>}
      {records?.length === 0 && <p className="quiet">{t("algorithms.empty")}</p>}
      {records !== null && records.length > 0 && (
        <div className="columns">
          <table className="rows">
            <thead>
              <tr>
                <th scope="col">{t("algorithms.col.id")}</th>
                <th scope="col">{t("algorithms.col.state")}</th>
                <th scope="col">{t("algorithms.col.queue")}</th>
                <th scope="col">{t("algorithms.col.workers")}</th>
              </tr>
            </thead>
            <tbody>
              {records.map((one) => {
                const told = queues.get(one.algorithm_id);
                return (
                  <tr key={one.algorithm_id} data-algorithm={one.algorithm_id} data-status={one.status}>
                    <td>
                      <button
                        type="button"
                        className="link"
                        aria-pressed={chosen === one.algorithm_id}
                        onClick={() => setChosen(one.algorithm_id)}
                      >
                        {one.algorithm_id}
                      </button>
                    </td>
                    <td>
                      <span className={`badge is-${one.status}`}>{t(`state.${one.status}`)}</span>
                    </td>
                    <td data-label={t("algorithms.col.queue")}>{told?.queue_depth ?? "–"}</td>
                    <td data-label={t("algorithms.col.workers")}>
                      {told?.workers === undefined ? one.desired_count : `${told.workers} / ${one.desired_count}`}
                    </td>
                  </tr>
                );
              })}
            </tbody>
          </table>
          {record === null ? (
            <p className="quiet">{t("algorithms.choose")}</p>
          ) : (
            <Details key={record.algorithm_id} record={record} onChange={look} />
          )}
        </div>
      )}
    </>
  );
}

function Details({ record, onChange }: { record: Algorithm; onChange: () => Promise<void> }) {
  const t = useWords();
  const id = record.algorithm_id;
  /** The record that an edit began with: its revision guards what is saved. */
  const [edited, setEdited] = useState<Algorithm | null>(null);
  const [isRemoving, setRemoving] = useState(false);
  const [workers, setWorkers] = useState(record.desired_count);
  const [failure, setFailure] = useState<unknown>(null);

  const update = async (patch: Record<string, unknown>, revision: number): Promise<void> => {
    try {
      await current().platform.update(id, patch, revision);
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 412) throw error;
      await onChange();
      throw new Error(t("algorithms.stale"), { cause: error });
    }
    await onChange();
  };
  const save = async (draft: Draft): Promise<void> => {
    if (edited === null) return;
    const before: Record<string, unknown> = fieldsOf(draftOf(edited));
    const now: Record<string, unknown> = fieldsOf(draft);
    const changed = Object.fromEntries(
      Object.entries(now).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(before[name])),
    );
    if (Object.keys(changed).length) await update(changed, edited.revision);
    setEdited(null);
  };
  const scale = (event: FormEvent): void => {
    event.preventDefault();
    setFailure(null);
    update({ desired_count: workers }, record.revision).catch(setFailure);
  };

  return (
    <section className="panel" aria-label={id}>
      <div className="panel-head">
        <h2>{id}</h2>
        <span className="quiet">{t("algorithms.revision", { n: record.revision })}</span>
      </div>
      {record.status_reason && (
        <p className={`note ${record.status === "FAILED" ? "bad" : ""}`}>
          <strong>{t("algorithms.reason")}:</strong> {record.status_reason}
        </p>
      )}
      <dl className="facts">
        <div>
          <dt>{t("algorithms.image")}</dt>
          <dd className="small">{record.image_uri}</dd>
        </div>
        <div>
          <dt>{t("algorithms.col.size")}</dt>
          <dd className="small">
            {t("algorithms.vcpu", { n: record.cpu / 1024 })}, {record.memory} MiB
          </dd>
        </div>
        <div>
          <dt>{t("algorithms.outputs")}</dt>
          <dd className="small">{record.outputs.join(", ")}</dd>
        </div>
      </dl>
      <form className="actions" onSubmit={scale}>
        <label className="check">
          {t("algorithms.count")}
          <input
            className="small-number"
            type="number"
            min={0}
            max={1000}
            required
            value={workers}
            onChange={(event) => setWorkers(Number(event.target.value))}
          />
        </label>
        <button type="submit" disabled={workers === record.desired_count}>
          {t("algorithms.scale")}
        </button>
        <button type="button" onClick={() => setEdited(record)}>
          {t("algorithms.edit")}
        </button>
        <button type="button" className="danger" onClick={() => setRemoving(true)}>
          {t("algorithms.remove")}
        </button>
      </form>
      {failure !== null && (
        <p className="note bad" role="alert">
          {wordsOf(failure, t)}
        </p>
      )}
      <StatisticsPlot algoId={id} />
      <LogTail algoId={id} />
      {edited !== null && (
        <Dialog title={`${t("algorithms.edit")}: ${id}`} onClose={() => setEdited(null)}>
          <SpecForm start={draftOf(edited)} isNew={false} onSave={save} onCancel={() => setEdited(null)} />
        </Dialog>
      )}
      {isRemoving && <RemoveDialog record={record} onClose={() => setRemoving(false)} onDone={onChange} />}
    </section>
  );
}

interface RemoveProps {
  record: Algorithm;
  onClose: () => void;
  onDone: () => Promise<void>;
}

function RemoveDialog({ record, onClose, onDone }: RemoveProps) {
  const t = useWords();
  const algo = record.algorithm_id;
  const [isHard, setHard] = useState(false);
  const [isForced, setForced] = useState(false);
  const [failure, setFailure] = useState<unknown>(null);
  const remove = (event: FormEvent): void => {
    event.preventDefault();
    setFailure(null);
    current()
      .platform.remove(algo, { hard: isHard, force: isForced }, record.revision)
      .then(onDone)
      .then(onClose)
      .catch(setFailure);
  };
  return (
    <Dialog title={t("algorithms.remove.title", { algo })} onClose={onClose}>
      <form className="form" onSubmit={remove}>
        <label className="check">
          <input type="radio" name="how" checked={!isHard} onChange={() => setHard(false)} />
          {t("algorithms.remove.off")}
        </label>
        <label className="check">
          <input type="radio" name="how" checked={isHard} onChange={() => setHard(true)} />
          {t("algorithms.remove.hard")}
        </label>
        {isHard && (
          <label className="check">
            <input type="checkbox" checked={isForced} onChange={(event) => setForced(event.target.checked)} />
            {t("algorithms.remove.force")}
          </label>
        )}
        {failure !== null && (
          <p className="note bad" role="alert">
            {wordsOf(failure, t)}
          </p>
        )}
        <div className="actions">
          <button type="submit" className="danger">
            {t(isHard ? "algorithms.remove.confirm" : "algorithms.remove.turnOff", { algo })}
          </button>
          <button type="button" onClick={onClose}>
            {t("common.cancel")}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
