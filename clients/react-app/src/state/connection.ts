/** The WebSocket: results as they come. It reconnects by itself, and says what state it is in. */
import type { ResultMessage } from "../api/types";
import { current, ensureClientId, forgetClientId } from "./session";
import { ApiError } from "../api/http";
import { Store } from "./store";

export type ConnectionState = "connecting" | "open" | "waiting" | "refused";

export interface Connection {
  state: ConnectionState;
  /** Why the platform let us not in. */
  reason: string | null;
}

export const connection = new Store<Connection>({ state: "connecting", reason: null });

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15_000;
const PING_EVERY_MS = 10_000;
const SILENT_AFTER_MS = 25_000;

export interface Follower {
  onOpen(): void;
  onResult(message: ResultMessage): void;
}

/** Wait before the next try: doubled each time, with some chance in it so that many pages don't come at once. */
export function backoffMs(tries: number, chance: number): number {
  const whole = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** tries);
  return whole / 2 + (whole / 2) * chance;
}

/** Keep a connection open until the returned function is called. */
export function follow(follower: Follower): () => void {
  let socket: WebSocket | null = null;
  let tries = 0;
  let ended = false;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let heard = 0;

  const again = (): void => {
    if (ended) return;
    connection.set({ state: "waiting", reason: null });
    timer = setTimeout(() => void connect(), backoffMs(tries, Math.random()));
    tries += 1;
  };

  const connect = async (): Promise<void> => {
    if (tries === 0) connection.set({ state: "connecting", reason: null });
    let clientId: string;
    try {
      clientId = await ensureClientId();
      // A socket that is refused says not why, so the same is asked over HTTP first.
      await current().platform.jobs({ client_id: clientId, limit: 1 });
    } catch (error) {
      if (ended) return; // what was asked with the keys of before says nothing of those that came meanwhile
      if (error instanceof ApiError && error.status === 403) forgetClientId();
      if (error instanceof ApiError && error.status === 401) {
        connection.set({ state: "refused", reason: error.message });
        return; // until somebody gives a key
      }
      again();
      return;
    }
    if (ended) return;
    const made = new WebSocket(current().platform.socketAddress(clientId));
    socket = made;
    made.onopen = () => {
      tries = 0;
      heard = Date.now();
      connection.set({ state: "open", reason: null });
      follower.onOpen();
    };
    made.onmessage = (event) => {
      heard = Date.now();
      const said = parsed(event.data);
      if (said === null) return;
      follower.onResult(said);
      made.send(JSON.stringify({ type: "received", job_id: said.job_id }));
    };
    made.onclose = () => {
      if (socket === made) again();
    };
  };

  const pulse = setInterval(() => {
    if (socket?.readyState !== WebSocket.OPEN) return;
    if (Date.now() - heard > SILENT_AFTER_MS) {
      const silent = socket;
      socket = null;
      silent.close();
      again();
    } else {
      socket.send('{"type": "ping"}');
    }
  }, PING_EVERY_MS);

  const hurry = (): void => {
    if (connection.get().state !== "waiting") return;
    clearTimeout(timer);
    tries = 0;
    void connect();
  };
  window.addEventListener("online", hurry);
  void connect();
  return () => {
    ended = true;
    clearTimeout(timer);
    clearInterval(pulse);
    window.removeEventListener("online", hurry);
    const last = socket;
    socket = null;
    last?.close();
  };
}

function parsed(data: unknown): ResultMessage | null {
  try {
    const said: unknown = JSON.parse(String(data));
    return said !== null && typeof said === "object" && "job_id" in said ? (said as ResultMessage) : null;
  } catch {
    return null;
  }
}
