/** A line of a log, read: workers write JSON, an algorithm's own output may be anything. */
export interface LogLine {
  /** 12:34:56.789, of the day that ``at`` names in full. */
  time: string;
  at: string;
  level: string;
  message: string;
  /** What else the line says, "name=value". */
  rest: string;
}

function textOf(value: unknown): string {
  if (Array.isArray(value)) return value.map(textOf).join(", ");
  if (typeof value !== "object" || value === null) return String(value);
  return Object.entries(value)
    .map(([name, one]) => `${name} ${textOf(one)}`)
    .join(", ");
}

/** A record's reason may quote the last line of a worker's log: of that, the message. */
export function readReason(reason: string): string {
  const at = reason.indexOf("{");
  const quoted = at < 0 ? null : readLine(reason.slice(at), "");
  return quoted === null ? reason : reason.slice(0, at) + quoted.message;
}

const AT = /^\d{4}-\d\d-\d\dT(\d\d:\d\d:\d\d(?:\.\d{1,3})?)/;

/** null for what is no line of ours, which is shown as it is. */
export function readLine(line: string, algoId: string): LogLine | null {
  let read: unknown;
  try {
    read = JSON.parse(line);
  } catch {
    return null;
  }
  if (typeof read !== "object" || read === null || Array.isArray(read)) return null;
  const { time, level, message, ...others } = read as Record<string, unknown>;
  if (typeof message !== "string") return null;
  const at = typeof time === "string" ? time : "";
  const rest = Object.entries(others)
    .filter(([name, value]) => name !== "algo_id" || value !== algoId) // it is this one's log
    .map(([name, value]) => `${name}=${textOf(value)}`);
  return { time: AT.exec(at)?.[1] ?? at, at, level: typeof level === "string" ? level : "", message, rest: rest.join(" ") };
}
