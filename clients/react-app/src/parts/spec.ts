/** What a person says of an algorithm, and what of it the API would refuse (model/algorithm.py). */
import type { WrongField } from "../api/http";
import type { Algorithm, NewAlgorithm } from "../api/types";
import sizes from "../api/fargate-sizes.json";
import type { Key, Translate } from "../i18n";

/** CPU units → MiB that the API takes with them; written from the API's own table. */
export const MEMORY_OF: Record<string, number[]> = sizes;
export const CPUS = Object.keys(MEMORY_OF).map(Number).sort((a, b) => a - b);
export const OUTPUTS = ["SC", "SEG", "SR"] as const;

/** Numbers of workers are as typed; "" for bounds that aren't given. */
export interface Draft {
  id: string;
  image: string;
  cpu: number;
  memory: number;
  command: string;
  env: string;
  workers: string;
  least: string;
  most: string;
  outputs: readonly (typeof OUTPUTS)[number][];
  store: boolean;
  deidentify: boolean;
  description: string;
  /** JSON. */
  parameters: string;
}

export type Field = keyof Draft;
export type Problems = Partial<Record<Field, string>>;

export const NEW_DRAFT: Draft = {
  id: "",
  image: "",
  cpu: 1024,
  memory: 2048,
  command: "/app/worker.sh",
  env: "",
  workers: "1",
  least: "",
  most: "",
  outputs: ["SC"],
  store: false,
  deidentify: false,
  description: "",
  parameters: "",
};

export function draftOf(record: Algorithm): Draft {
  return {
    id: record.algorithm_id,
    image: record.image_uri,
    cpu: record.cpu,
    memory: record.memory,
    command: record.command.join("\n"),
    env: Object.entries(record.env)
      .map(([name, value]) => `${name}=${value}`)
      .join("\n"),
    workers: String(record.desired_count),
    least: record.min_count == null ? "" : String(record.min_count),
    most: record.max_count == null ? "" : String(record.max_count),
    outputs: record.outputs,
    store: record.store_results,
    deidentify: record.deidentify,
    description: record.description,
    parameters: record.parameters ? JSON.stringify(record.parameters, null, 1) : "",
  };
}

/** ``mine``, of which only what differs from ``base`` was meant, on what the record is by now. */
export function rebased(mine: Draft, base: Draft, now: Draft): Draft {
  const meant = Object.entries(mine).filter(([name, value]) => !isSame(value, base[name as Field]));
  return { ...now, ...Object.fromEntries(meant) };
}

export function isSame(one: unknown, other: unknown): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}

type Fields = Omit<NewAlgorithm, "algo_id">;

/** The draft, which has no problems, as the API takes it, without its id. */
export function fieldsOf(draft: Draft): Fields {
  const parameters = draft.parameters.trim();
  return {
    image_uri: draft.image.trim(),
    cpu: draft.cpu,
    memory: draft.memory,
    command: linesOf(draft.command),
    env: Object.fromEntries(linesOf(draft.env).map(pairOf)),
    desired_count: Number(draft.workers),
    min_count: draft.least.trim() ? Number(draft.least) : null,
    max_count: draft.most.trim() ? Number(draft.most) : null,
    outputs: [...draft.outputs],
    store_results: draft.store,
    description: draft.description,
    parameters: parameters ? (JSON.parse(parameters) as NonNullable<Fields["parameters"]>) : null,
  };
}

/** What a PATCH must say. It takes no null for "nothing", so a schema that is no more is one of nothing. */
export function changesOf(draft: Draft, before: Draft): Partial<Fields> {
  const [was, is] = [fieldsOf(before), fieldsOf(draft)];
  const changed: Partial<Fields> = Object.fromEntries(
    Object.entries(is).filter(([name, value]) => !isSame(value, was[name as keyof Fields])),
  );
  if (changed.parameters === null) changed.parameters = { type: "object", properties: {} };
  return changed;
}

const ID = /^[a-z][a-z0-9_-]{0,47}$/;
const IMAGE = /^[!-~]{1,512}$/;
const ENV_NAME = /^[A-Za-z_][A-Za-z0-9_]{0,127}$/;
const COUNT = /^[0-9]{1,4}$/;
const MOST_WORKERS = 1000;
const MOST_ENV = 32;
const MOST_DESCRIPTION = 500;

/** What the API would refuse, by field. ``edited`` has bounds that can be changed, and not taken away. */
export function problemsOf(draft: Draft, edited: Algorithm | null, t: Translate): Problems {
  const found: Problems = {};
  const say = (field: Field, key: Key): void => {
    found[field] ??= t(key);
  };
  if (edited === null && (!ID.test(draft.id) || draft.id === "results" || draft.id.endsWith("-dlq"))) say("id", "problem.id");
  if (!IMAGE.test(draft.image.trim())) say("image", "problem.image");
  if (!MEMORY_OF[draft.cpu]?.includes(draft.memory)) say("memory", "problem.memory");
  for (const field of ["workers", "least", "most"] as const) {
    const typed = draft[field].trim();
    if (field !== "workers" && !typed) continue;
    if (!COUNT.test(typed) || Number(typed) > MOST_WORKERS) say(field, "problem.count");
  }
  if (!draft.least.trim() && edited?.min_count != null) say("least", "problem.bound");
  if (!draft.most.trim() && edited?.max_count != null) say("most", "problem.bound");
  const workers = Number(draft.workers);
  if (workers > 0) {
    if (draft.least.trim() && Number(draft.least) > workers) say("least", "problem.least");
    if (draft.most.trim() && Number(draft.most) < workers) say("most", "problem.most");
  }
  if (!linesOf(draft.command).length) say("command", "problem.command");
  const env = linesOf(draft.env).map(pairOf);
  if (linesOf(draft.env).some((line) => !line.includes("=")) || env.some(([name]) => !ENV_NAME.test(name))) say("env", "problem.env");
  if (env.length > MOST_ENV) say("env", "problem.envLong");
  if (draft.description.length > MOST_DESCRIPTION) say("description", "problem.description");
  if (!isObject(draft.parameters)) say("parameters", "problem.parameters");
  if (!draft.outputs.length) say("outputs", "problem.outputs");
  return found;
}

const FIELDS: Record<string, Field> = {
  algo_id: "id",
  algorithm_id: "id",
  image_uri: "image",
  cpu: "cpu",
  memory: "memory",
  command: "command",
  env: "env",
  desired_count: "workers",
  min_count: "least",
  max_count: "most",
  outputs: "outputs",
  store_results: "store",
  deidentify: "deidentify",
  description: "description",
  parameters: "parameters",
};

/** Where a refusal is shown. Of several fields at once, the one that the API names first. */
export function fieldOf(wrong: WrongField): Field {
  const [named] = wrong.field.split(".");
  const words = wrong.field === "body" ? wrong.problem.split(/[^a-z_]+/) : [named ?? ""];
  return words.map((word) => FIELDS[word]).find((field) => field !== undefined) ?? "image";
}

function linesOf(text: string): string[] {
  return text.split("\n").filter((line) => line.trim() !== "");
}

function pairOf(line: string): [string, string] {
  const at = line.indexOf("=");
  return at < 0 ? [line.trim(), ""] : [line.slice(0, at).trim(), line.slice(at + 1)];
}

function isObject(text: string): boolean {
  try {
    const read: unknown = JSON.parse(text.trim() || "{}");
    return typeof read === "object" && read !== null && !Array.isArray(read);
  } catch {
    return false;
  }
}
