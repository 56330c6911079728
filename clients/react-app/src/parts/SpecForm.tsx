import { useId, useState } from "react";
import type { FormEvent, ReactNode } from "react";

import { ApiError } from "../api/http";
import type { Algorithm } from "../api/types";
import { useWords } from "../i18n";
import { Failure } from "./Failure";
import { CPUS, fieldOf, MEMORY_OF, OUTPUTS, problemsOf } from "./spec";
import type { Draft, Field, Problems } from "./spec";

interface Props {
  start: Draft;
  /** The record that is edited; null for a new one. */
  edited: Algorithm | null;
  onSave: (draft: Draft) => Promise<void>;
  onCancel: () => void;
}

export function SpecForm({ start, edited, onSave, onCancel }: Props) {
  const t = useWords();
  const isNew = edited === null;
  const [draft, setDraft] = useState(start);
  const [failure, setFailure] = useState<unknown>(null);
  const [refused, setRefused] = useState<Problems>({});
  const [isChecked, setChecked] = useState(false);
  const [isSaving, setSaving] = useState(false);
  const form = useId();
  const own = isChecked ? problemsOf(draft, edited, t) : {};
  const problems: Problems = { ...refused, ...own };
  const change = (what: Partial<Draft>): void => {
    setDraft({ ...draft, ...what });
    setRefused({});
  };

  const onCpu = (cpu: number): void => {
    const fits = MEMORY_OF[cpu] ?? [];
    change({ cpu, memory: fits.includes(draft.memory) ? draft.memory : (fits[0] ?? draft.memory) });
  };
  const onOutput = (kind: (typeof OUTPUTS)[number], isOn: boolean): void => {
    const wanted = new Set(draft.outputs);
    if (isOn) wanted.add(kind);
    else wanted.delete(kind);
    if (kind === "SR" && isOn) wanted.add("SEG");
    if (kind === "SEG" && !isOn) wanted.delete("SR");
    change({ outputs: OUTPUTS.filter((one) => wanted.has(one)) });
  };
  const showFirst = (found: Problems): void => {
    const [first] = Object.keys(found);
    if (first) document.getElementById(`${form}-${first}`)?.focus();
  };
  const onSubmit = async (event: FormEvent): Promise<void> => {
    event.preventDefault();
    setFailure(null);
    setChecked(true);
    const found = problemsOf(draft, edited, t);
    if (Object.keys(found).length) return showFirst(found);
    setSaving(true);
    try {
      await onSave(draft);
    } catch (error) {
      const said = error instanceof ApiError ? error.fields : [];
      const told = Object.fromEntries(said.map((one) => [fieldOf(one), one.problem]));
      setRefused(told);
      setFailure(error);
      showFirst(told);
    } finally {
      setSaving(false);
    }
  };

  /** What a control needs to be named, described and found by its problem. */
  const of = (field: Field) => ({
    id: `${form}-${field}`,
    "aria-invalid": problems[field] ? (true as const) : undefined,
    "aria-describedby": problems[field] ? `${form}-${field}-problem` : undefined,
  });
  const labelled = (field: Field, label: string, control: ReactNode, hint?: string) => (
    <div className="field">
      <label htmlFor={`${form}-${field}`}>{label}</label>
      {control}
      {problems[field] && (
        <small className="problem" id={`${form}-${field}-problem`}>
          {problems[field]}
        </small>
      )}
      {hint && <small className="quiet">{hint}</small>}
    </div>
  );
  const number = (field: "workers" | "least" | "most") => (
    <input {...of(field)} inputMode="numeric" value={draft[field]} onChange={(event) => change({ [field]: event.target.value })} />
  );

  return (
    <form className="form" noValidate onSubmit={(event) => void onSubmit(event)}>
      {isNew &&
        labelled(
          "id",
          t("algorithms.id"),
          <input {...of("id")} value={draft.id} spellCheck={false} onChange={(event) => change({ id: event.target.value })} />,
          t("algorithms.idHint"),
        )}
      {labelled(
        "image",
        t("algorithms.image"),
        <input {...of("image")} value={draft.image} spellCheck={false} onChange={(event) => change({ image: event.target.value })} />,
      )}
      <div className="row">
        {labelled(
          "cpu",
          t("algorithms.cpu"),
          <select {...of("cpu")} value={draft.cpu} onChange={(event) => onCpu(Number(event.target.value))}>
            {CPUS.map((cpu) => (
              <option key={cpu} value={cpu}>
                {t("algorithms.vcpu", { n: cpu / 1024 })}
              </option>
            ))}
          </select>,
        )}
        {labelled(
          "memory",
          t("algorithms.memory"),
          <select {...of("memory")} value={draft.memory} onChange={(event) => change({ memory: Number(event.target.value) })}>
            {(MEMORY_OF[draft.cpu] ?? []).map((memory) => (
              <option key={memory} value={memory}>
                {memory < 1024 ? `${memory} MiB` : `${memory / 1024} GiB`}
              </option>
            ))}
          </select>,
        )}
      </div>
      <div className="row">
        {labelled("workers", t("algorithms.count"), number("workers"))}
        {labelled("least", t("algorithms.least"), number("least"))}
        {labelled("most", t("algorithms.most"), number("most"))}
      </div>
      <small className="quiet">{t("algorithms.boundsHint")}</small>
      {labelled(
        "command",
        t("algorithms.command"),
        <textarea {...of("command")} rows={2} spellCheck={false} value={draft.command} onChange={(event) => change({ command: event.target.value })} />,
      )}
      {labelled(
        "env",
        t("algorithms.env"),
        <textarea {...of("env")} rows={2} spellCheck={false} value={draft.env} onChange={(event) => change({ env: event.target.value })} />,
      )}
      {labelled(
        "description",
        t("algorithms.description"),
        <input {...of("description")} value={draft.description} onChange={(event) => change({ description: event.target.value })} />,
      )}
      {labelled(
        "parameters",
        t("algorithms.parameters"),
        <textarea {...of("parameters")} rows={3} spellCheck={false} value={draft.parameters} onChange={(event) => change({ parameters: event.target.value })} />,
      )}
      <fieldset {...of("outputs")} tabIndex={-1}>
        <legend>{t("algorithms.outputs")}</legend>
        {OUTPUTS.map((kind) => (
          <label key={kind} className="check">
            <input
              type="checkbox"
              checked={draft.outputs.includes(kind)}
              onChange={(event) => onOutput(kind, event.target.checked)}
            />
            {t(`algorithms.output.${kind}`)}
          </label>
        ))}
        <label className="check">
          <input
            id={`${form}-store`}
            type="checkbox"
            checked={draft.store}
            onChange={(event) => change({ store: event.target.checked })}
          />
          {t("algorithms.store")}
        </label>
        {problems.outputs && (
          <small className="problem" id={`${form}-outputs-problem`}>
            {problems.outputs}
          </small>
        )}
      </fieldset>
      {isNew && (
        <div className="field">
          <label className="check">
            <input
              id={`${form}-deidentify`}
              type="checkbox"
              checked={draft.deidentify}
              onChange={(event) => change({ deidentify: event.target.checked })}
            />
            {t("algorithms.deidentify")}
          </label>
          <small className="quiet">{t("algorithms.deidentifyHint")}</small>
        </div>
      )}
      {failure !== null && <Failure error={failure} />}
      <div className="actions">
        <button type="submit" className="main" disabled={isSaving}>
          {t(isNew ? "algorithms.register" : "common.save")}
        </button>
        <button type="button" onClick={onCancel}>
          {t("common.cancel")}
        </button>
      </div>
    </form>
  );
}
