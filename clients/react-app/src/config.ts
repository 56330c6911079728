/** Where the platform is: said at build time, else by the platform that serves this page, else this page's origin. */

export interface Addresses {
  api: string;
  pacs: string;
  ws: string;
  /** What opens the PACS API, where the platform gives it to everybody who reaches it. */
  pacsKey: string;
}

interface ConfigFile {
  api_base?: string;
  pacs_base?: string;
  ws_endpoint?: string;
  pacs_key?: string;
}

const LOOPBACK = new Set(["localhost", "127.0.0.1", "[::1]"]);
/** Opens a platform on loopback, and nothing else. */
const LOOPBACK_PACS_KEY = "devkey";

export async function readAddresses(): Promise<Addresses> {
  const env = import.meta.env;
  const said: ConfigFile = env.REACT_APP_API_BASE ? {} : await configFile();
  const api = trimmed(env.REACT_APP_API_BASE ?? said.api_base ?? location.origin);
  const pacs = trimmed(env.REACT_APP_PACS_BASE ?? said.pacs_base ?? `${api}/pacs`);
  const ws = trimmed(env.REACT_APP_WS_ENDPOINT ?? said.ws_endpoint ?? `${api.replace(/^http/, "ws")}/ws`);
  const pacsKey = said.pacs_key ?? (LOOPBACK.has(new URL(pacs).hostname) ? LOOPBACK_PACS_KEY : "");
  return { api, pacs, ws, pacsKey };
}

async function configFile(): Promise<ConfigFile> {
  try {
    const answer = await fetch("/config.json", { cache: "no-store" });
    return answer.ok ? ((await answer.json()) as ConfigFile) : {};
  } catch {
    return {}; // not served by a platform
  }
}

function trimmed(address: string): string {
  return address.replace(/\/+$/, "");
}
