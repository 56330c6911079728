/** Who this page is to the platform: addresses, keys, client_id. */
import { Platform } from "../api/platform";
import type { Keys } from "../api/platform";
import type { Addresses } from "../config";
import { Store } from "./store";

const CLIENT_ID = "mip.client_id";

export interface Session {
  platform: Platform;
  clientId: string | null;
}

/** The session of this page; null until the platform's addresses are known. */
export const session = new Store<Session | null>(null);

export function openSession(addresses: Addresses): void {
  const keys: Keys = { client: "", pacs: addresses.pacsKey, admin: "" };
  session.set({ platform: new Platform(addresses, keys), clientId: localStorage.getItem(CLIENT_ID) });
}

export function changeKeys(change: Partial<Keys>): void {
  const now = current();
  const keys = { ...now.platform.keys, ...change };
  making = null; // asked for with the keys of before, it may be refused when these are not
  session.set({ ...now, platform: new Platform(now.platform.addresses, keys) });
}

export function current(): Session {
  const now = session.get();
  if (now === null) throw new Error("the platform's addresses aren't known yet");
  return now;
}

/**
 * The client_id under which this browser's jobs run. It is kept, so that results which come while the page is
 * closed are found again; it says nothing of a patient.
 */
export async function ensureClientId(): Promise<string> {
  const known = current().clientId;
  if (known) return known;
  if (making) return making;
  const asked: Promise<string> = current()
    .platform.provision()
    // One that was asked for with other keys is nobody's: whoever waits gets that of the keys there are.
    .then((clientId) => (making === asked ? keepClientId(clientId) : ensureClientId()))
    .finally(() => {
      if (making === asked) making = null;
    });
  making = asked;
  return asked;
}

let making: Promise<string> | null = null;

export function forgetClientId(): void {
  localStorage.removeItem(CLIENT_ID);
  session.set({ ...current(), clientId: null });
}

function keepClientId(clientId: string): string {
  localStorage.setItem(CLIENT_ID, clientId);
  session.set({ ...current(), clientId });
  return clientId;
}
