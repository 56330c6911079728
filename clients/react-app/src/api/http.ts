/** One request to the platform, and its refusals as an error that a person can read. */

export interface WrongField {
  /** As in the body: ``command.0``; ``body`` where it is about several. */
  field: string;
  problem: string;
}

export class ApiError extends Error {
  constructor(
    /** HTTP status; 0 when there was no answer. */
    readonly status: number,
    readonly code: string,
    message: string,
    readonly retryAfterS: number | null = null,
    /** Which fields are wrong, and how, where the platform says so. */
    readonly fields: readonly WrongField[] = [],
  ) {
    super(message);
  }

  get isAway(): boolean {
    return this.status === 0 || this.status === 502 || this.status === 503 || this.status === 504;
  }
}

export interface Asked {
  method?: string;
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal;
  cache?: RequestCache;
}

const TIMEOUT_MS = 30_000;

export async function ask(url: string, asked: Asked = {}): Promise<Response> {
  const headers: Record<string, string> = { ...asked.headers };
  if (asked.body !== undefined) headers["content-type"] = "application/json";
  const limit = AbortSignal.timeout(TIMEOUT_MS);
  const init: RequestInit = {
    method: asked.method ?? "GET",
    headers,
    signal: asked.signal ? AbortSignal.any([asked.signal, limit]) : limit,
    cache: asked.cache ?? "no-store",
    credentials: "omit",
  };
  if (asked.body !== undefined) init.body = JSON.stringify(asked.body);
  try {
    new Headers(headers);
  } catch {
    // A key of characters that no header can hold is nobody's key.
    const code = "x-admin-key" in headers ? "ADMIN_KEY_REQUIRED" : "CLIENT_KEY_REQUIRED";
    throw new ApiError(401, code, "The key is wrong.");
  }
  let answer: Response;
  try {
    answer = await fetchAgain(url, init);
  } catch (error) {
    if (asked.signal?.aborted) throw error;
    throw new ApiError(0, "NO_ANSWER", "The platform does not answer.");
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

/**
 * What only reads is asked once more where no answer came: a browser breaks off all that is under way when the machine's
 * network changes (ERR_NETWORK_CHANGED), which on the platform's own machine each start of a container is.
 */
export async function fetchAgain(url: string, init: RequestInit): Promise<Response> {
  try {
    return await fetch(url, init);
  } catch (error) {
    if ((init.method ?? "GET") !== "GET" || init.signal?.aborted) throw error;
    return fetch(url, init);
  }
}

export async function askJson<T>(url: string, asked: Asked = {}): Promise<T> {
  return (await (await ask(url, asked)).json()) as T;
}

interface Refusal {
  error?: { code?: string; message?: string; details?: { fields?: WrongField[] } | null };
}

async function refusal(answer: Response): Promise<ApiError> {
  let code = `HTTP_${answer.status}`;
  let message = answer.statusText || code;
  let fields: WrongField[] = [];
  try {
    const said = (await answer.json()) as Refusal;
    code = said.error?.code ?? code;
    message = said.error?.message ?? message;
    fields = said.error?.details?.fields ?? [];
  } catch {
    // Not one of ours: a proxy's own page.
  }
  const after = Number(answer.headers.get("retry-after"));
  return new ApiError(answer.status, code, message, after > 0 ? after : null, fields);
}

export function query(values: Record<string, string | number | null | undefined>): string {
  const given = Object.entries(values).filter(([, value]) => value != null && value !== "");
  return given.length ? `?${new URLSearchParams(given.map(([name, value]) => [name, String(value)]))}` : "";
}
