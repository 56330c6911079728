import { useState } from "react";
import type { FormEvent } from "react";

import type { Algorithm, NewAlgorithm } from "../api/types";
import sizes from "../api/fargate-sizes.json";
import { useWords, wordsOf } from "../i18n";

/** CPU units → MiB that the API takes with them; written from the API's own table. */
const MEMORY_OF: Record<string, number[]> = sizes;
const CPUS = Object.keys(MEMORY_OF).map(Number).sort((a, b) => a - b);
const OUTPUTS = ["SC", "SEG", "SR"] as const;

/** What a person says of an algorithm; ``workers`` stands for ``desired_count``. */
export interface Draft {
  id: string;
  image: string;
  cpu: number;
  memory: number;
  command: string;
  env: string;
  workers: number;
  outputs: readonly (typeof OUTPUTS)[number][];
  description: string;
  /** JSON. */
  parameters: string;
}

export const NEW_DRAFT: Draft = {
  id: "",
  image: "",
  cpu: 1024,
  memory: 2048,
  command: "/app/worker.sh",
  env: "",
  workers: 1,
  outputs: ["SC"],
  description: "",
  parameters: "",
};

export function draftOf(spec: Algorithm): Draft {
  return {
    id: spec.algorithm_id,
    image: spec.image_uri,
    cpu: spec.cpu,
    memory: spec.memory,
    command: spec.command.join("\n"),
    env: Object.entries(spec.env)
      .map(([name, value]) => `${name}=${value}`)
      .join("\n"),
    workers: spec.desired_count,
    outputs: spec.outputs,
    description: spec.description,
    parameters: spec.parameters ? JSON.stringify(spec.parameters, null, 1) : "",
  };
}

/** The draft as the API takes it, without its id. Lines of the environment without "=" are left to the API to refuse. */
export function fieldsOf(draft: Draft): Omit<NewAlgorithm, "algo_id"> {
  const lines = (text: string) => text.split("\n").filter((line) => line.trim() !== "");
  return {
    image_uri: draft.image.trim(),
    cpu: draft.cpu,
    memory: draft.memory,
    command: lines(draft.command),
    env: Object.fromEntries(
      lines(draft.env).map((line) => {
        const at = line.indexOf("=");
        return at < 0 ? [line.trim(), ""] : [line.slice(0, at).trim(), line.slice(at + 1)];
      }),
    ),
    desired_count: draft.workers,
    outputs: [...draft.outputs],
    description: draft.description,
    parameters: draft.parameters.trim() ? (JSON.parse(draft.parameters) as NewAlgorithm["parameters"]) : null,
  };
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text.trim() || "null");
    return true;
  } catch {
    return false;
  }
}

interface Props {
  start: Draft;
  isNew: boolean;
  onSave: (draft: Draft) => Promise<void>;
  onCancel: () => void;
}

export function SpecForm({ start, isNew, onSave, onCancel }: Props) {
  const t = useWords();
  const [draft, setDraft] = useState(start);
  const [failure, setFailure] = useState<unknown>(null);
  const [isSaving, setSaving] = useState(false);
  const memories = MEMORY_OF[draft.cpu] ?? [];
  const change = (what: Partial<Draft>): void => setDraft({ ...draft, ...what });

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
  const onSubmit = (event: FormEvent): void => {
    event.preventDefault();
    setSaving(true);
    setFailure(null);
    onSave(draft)
      .catch(setFailure)
      .finally(() => setSaving(false));
  };

  return (
    <form className="form" onSubmit={onSubmit}>
      {isNew && (
        <label>
          <span>{t("algorithms.id")}</span>
          <input
            value={draft.id}
            required
            pattern="[a-z][a-z0-9_\-]{0,47}"
            title={t("algorithms.idHint")}
            spellCheck={false}
            onChange={(event) => change({ id: event.target.value })}
          />
          <small className="quiet">{t("algorithms.idHint")}</small>
        </label>
      )}
      <label>
        <span>{t("algorithms.image")}</span>
        <input value={draft.image} required spellCheck={false} onChange={(event) => change({ image: event.target.value })} />
      </label>
      <div className="row">
        <label>
          <span>{t("algorithms.cpu")}</span>
          <select value={draft.cpu} onChange={(event) => onCpu(Number(event.target.value))}>
            {CPUS.map((cpu) => (
              <option key={cpu} value={cpu}>
                {t("algorithms.vcpu", { n: cpu / 1024 })}
              </option>
            ))}
          </select>
        </label>
        <label>
          <span>{t("algorithms.memory")}</span>
          <select value={draft.memory} onChange={(event) => change({ memory: Number(event.target.value) })}>
            {memories.map((memory) => (
              <option key={memory} value={memory}>
                {memory < 1024 ? `${memory} MiB` : `${memory / 1024} GiB`}
              </option>
            ))}
          </select>
        </label>
        <label>
          <span>{t("algorithms.count")}</span>
          <input
            type="number"
            min={0}
            max={1000}
            required
            value={draft.workers}
            onChange={(event) => change({ workers: Number(event.target.value) })}
          />
        </label>
      </div>
      <label>
        <span>{t("algorithms.command")}</span>
        <textarea rows={2} required spellCheck={false} value={draft.command} onChange={(event) => change({ command: event.target.value })} />
      </label>
      <label>
        <span>{t("algorithms.env")}</span>
        <textarea rows={2} spellCheck={false} value={draft.env} onChange={(event) => change({ env: event.target.value })} />
      </label>
      <label>
        <span>{t("algorithms.description")}</span>
        <input maxLength={500} value={draft.description} onChange={(event) => change({ description: event.target.value })} />
      </label>
      <label>
        <span>{t("algorithms.parameters")}</span>
        <textarea
          rows={3}
          spellCheck={false}
          value={draft.parameters}
          onChange={(event) => {
            event.target.setCustomValidity(isJson(event.target.value) ? "" : t("algorithms.badParameters"));
            change({ parameters: event.target.value });
          }}
        />
      </label>
      <fieldset>
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
      </fieldset>
      {failure !== null && (
        <p className="note bad" role="alert">
          {wordsOf(failure, t)}
        </p>
      )}
      <div className="actions">
        <button type="submit" className="main" disabled={isSaving || draft.outputs.length === 0}>
          {t(isNew ? "algorithms.register" : "common.save")}
        </button>
        <button type="button" onClick={onCancel}>
          {t("common.cancel")}
        </button>
      </div>
    </form>
  );
}
