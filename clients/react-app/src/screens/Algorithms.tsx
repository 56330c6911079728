import { useCallback, useEffect, useRef, useState } from "react";
import type { FormEvent } from "react";

import { ApiError } from "../api/http";
import { Platform } from "../api/platform";
import type { Algorithm, Offer } from "../api/types";
import { useWords } from "../i18n";
import { Dialog } from "../parts/Dialog";
import { Failure } from "../parts/Failure";
import { readReason } from "../parts/logLine";
import { LogTail } from "../parts/LogTail";
import { changesOf, draftOf, fieldsOf, NEW_DRAFT, rebased } from "../parts/spec";
import type { Draft } from "../parts/spec";
import { SpecForm } from "../parts/SpecForm";
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
    setFailure(null);
    // The key is the session's once the platform took it: this form stays, to say that it did not.
    const { addresses, keys } = current().platform;
    new Platform(addresses, { ...keys, admin: key })
      .registry()
      .then(() => changeKeys({ admin: key }))
      .catch(setFailure);
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
        {failure !== null && <Failure error={failure} />}
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
    await current().platform.register({ ...fieldsOf(draft), algo_id: draft.id, deidentify: draft.deidentify });
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
      {failure !== null && <Failure error={failure} />}
      {isAdding && (
        <Dialog title={t("algorithms.register")} onClose={() => setAdding(false)}>
          <SpecForm start={NEW_DRAFT} edited={null} onSave={register} onCancel={() => setAdding(false)} />
        </Dialog>
      )}
      {records === null && failure === null && <p className="quiet">{t("common.loading")}…</p>}
      {records?.length === 0 && <p className="quiet">{t("algorithms.empty")}</p>}
      {records !== null && records.length > 0 && (
        <div className="columns">
          <table className="rows registry">
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
  /** The record that an edit is of, whose revision guards what is saved, and what the form begins with. */
  const [edit, setEdit] = useState<{ record: Algorithm; start: Draft; isStale: boolean } | null>(null);
  const [isRemoving, setRemoving] = useState(false);
  const [typed, setTyped] = useState<number | null>(null);
  const [failure, setFailure] = useState<unknown>(null);
  const workers = typed ?? record.desired_count;

  const save = async (draft: Draft): Promise<void> => {
    if (edit === null) return;
    const before = draftOf(edit.record);
    const changed = changesOf(draft, before);
    try {
      if (Object.keys(changed).length) await current().platform.update(id, changed, edit.record.revision);
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 412) throw error;
      const newest = await current().platform.record(id);
      setEdit({ record: newest, start: rebased(draft, before, draftOf(newest)), isStale: true });
      return;
    }
    setEdit(null);
    await onChange();
  };
  const scale = (event: FormEvent): void => {
    event.preventDefault();
    setFailure(null);
    current()
      .platform.update(id, { desired_count: workers }, record.revision)
      .then(() => setTyped(null))
      .then(onChange)
      .catch(setFailure);
  };

  // Where both don't fit side by side, it is far below the list.
  const panel = useRef<HTMLElement>(null);
  useEffect(() => {
    if (matchMedia("(max-width: 900px)").matches) panel.current?.scrollIntoView();
  }, []);

  return (
    <section ref={panel} className="panel" aria-label={id}>
      <div className="panel-head">
        <h2>{id}</h2>
        <span className="quiet">{t("algorithms.revision", { n: record.revision })}</span>
      </div>
      {record.status_reason && (
        <p className={`note ${record.status === "FAILED" ? "bad" : ""}`}>
          <strong>{t("algorithms.reason")}:</strong> {readReason(record.status_reason)}
        </p>
      )}
      {record.description && <p className="plain-text">{record.description}</p>}
      <Facts record={record} />
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
            onChange={(event) => setTyped(Number(event.target.value))}
          />
        </label>
        <button type="submit" disabled={workers === record.desired_count}>
          {t("algorithms.scale")}
        </button>
        <button type="button" onClick={() => setEdit({ record, start: draftOf(record), isStale: false })}>
          {t("algorithms.edit")}
        </button>
        <button type="button" className="danger" onClick={() => setRemoving(true)}>
          {t("algorithms.remove")}
        </button>
      </form>
      {failure !== null && <Failure error={failure} />}
      <StatisticsPlot algoId={id} />
      <LogTail algoId={id} />
      {edit !== null && (
        <Dialog title={`${t("algorithms.edit")}: ${id}`} onClose={() => setEdit(null)}>
          {edit.isStale && (
            <p className="note bad" role="alert">
              {t("algorithms.stale")}
            </p>
          )}
          <SpecForm
            key={edit.record.revision}
            start={edit.start}
            edited={edit.record}
            onSave={save}
            onCancel={() => setEdit(null)}
          />
        </Dialog>
      )}
      {isRemoving && <RemoveDialog record={record} onClose={() => setRemoving(false)} onDone={onChange} />}
    </section>
  );
}

function Facts({ record }: { record: Algorithm }) {
  const t = useWords();
  const isBounded = record.min_count != null || record.max_count != null;
  const bounds = { least: record.min_count ?? record.desired_count, most: record.max_count ?? record.desired_count };
  const facts = [
    [t("algorithms.image"), record.image_uri],
    [t("algorithms.col.size"), `${t("algorithms.vcpu", { n: record.cpu / 1024 })}, ${record.memory} MiB`],
    [t("algorithms.outputs"), [record.outputs.join(", "), record.store_results && t("algorithms.storeShort")].filter(Boolean).join(" · ")],
    ...(isBounded ? [[t("algorithms.count"), t("algorithms.bounds", bounds)]] : []),
    ...(record.deidentify ? [[t("algorithms.input"), t("algorithms.deidentified")]] : []),
  ];
  return (
    <dl className="list">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
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
        <label className="check choice">
          <input type="radio" name="how" checked={!isHard} onChange={() => setHard(false)} />
          <span>{t("algorithms.remove.off")}</span>
        </label>
        <label className="check choice">
          <input type="radio" name="how" checked={isHard} onChange={() => setHard(true)} />
          <span>{t("algorithms.remove.hard")}</span>
        </label>
        {isHard && (
          <label className="check choice">
            <input type="checkbox" checked={isForced} onChange={(event) => setForced(event.target.checked)} />
            <span>{t("algorithms.remove.force")}</span>
          </label>
        )}
        {failure !== null && <Failure error={failure} />}
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
