/** The platform's calls, with the keys of this session. Keys are in memory only: they go with the page. */
import { ask, askJson, query } from "./http";
import type {
  Algorithm,
  AlgorithmPatch,
  ImageLink,
  Job,
  JobStatus,
  LogPage,
  NewAlgorithm,
  Offer,
  OneJob,
  ProcessRequest,
  Series,
  Statistics,
} from "./types";
import type { Addresses } from "../config";

export interface Keys {
  client: string;
  pacs: string;
  admin: string;
}

export interface JobPage {
  jobs: Job[];
  next_cursor: string | null;
}

/** ``isMore``: there are more of them in the PACS than these, or there may be. */
export interface SeriesList {
  series: Series[];
  isMore: boolean;
}

interface OfferPage {
  algorithms: Offer[];
  next_cursor: string | null;
}

/** More than a person chooses from. */
const MOST_OFFERS = 1000;

export class Platform {
  constructor(
    readonly addresses: Addresses,
    readonly keys: Keys,
  ) {}

  private get clientHeaders(): Record<string, string> {
    return this.keys.client ? { "x-api-key": this.keys.client } : {};
  }

  private get pacsHeaders(): Record<string, string> {
    return this.keys.pacs ? { "x-api-key": this.keys.pacs } : {};
  }

  private get adminHeaders(): Record<string, string> {
    return { "x-admin-key": this.keys.admin };
  }

  // Clients.

  async provision(): Promise<string> {
    const url = `${this.addresses.api}/provision`;
    const asked = { method: "POST", body: {}, headers: this.clientHeaders };
    return (await askJson<{ client_id: string }>(url, asked)).client_id;
  }

  async process(algoId: string, body: ProcessRequest): Promise<{ job_id: string; client_id: string }> {
    const url = `${this.addresses.api}/process/${encodeURIComponent(algoId)}`;
    return askJson(url, { method: "POST", body, headers: this.clientHeaders });
  }

  async job(jobId: string): Promise<OneJob> {
    return askJson(`${this.addresses.api}/jobs/${encodeURIComponent(jobId)}`, { headers: this.clientHeaders });
  }

  async jobs(
    asked: { client_id: string; status?: JobStatus; algo_id?: string; limit?: number; cursor?: string | null },
  ): Promise<JobPage> {
    return askJson(`${this.addresses.api}/jobs${query(asked)}`, { headers: this.clientHeaders });
  }

  async cancel(jobId: string): Promise<Job> {
    const url = `${this.addresses.api}/jobs/${encodeURIComponent(jobId)}/cancel`;
    return askJson(url, { method: "POST", body: {}, headers: this.clientHeaders });
  }

  /** What there is to send jobs to, for everybody: without image, environment and command. */
  async algorithms(): Promise<Offer[]> {
    const all: Offer[] = [];
    let cursor: string | null = null;
    do {
      const url: string = `${this.addresses.api}/algorithms${query({ cursor })}`;
      const page: OfferPage = await askJson(url, { headers: this.clientHeaders });
      all.push(...page.algorithms);
      cursor = page.next_cursor;
    } while (cursor !== null && all.length < MOST_OFFERS);
    return all;
  }

  /** The WebSocket's address; it holds the client's key, as a page can send no header with it. */
  socketAddress(clientId: string): string {
    return `${this.addresses.ws}${query({ client_id: clientId, key: this.keys.client })}`;
  }

  // PACS.

  async series(asked: { study_id?: string; series_id?: string; limit?: number }, signal?: AbortSignal): Promise<SeriesList> {
    return seriesOf(await ask(`${this.addresses.pacs}/series${query(asked)}`, { headers: this.pacsHeaders, signal }));
  }

  /** What is searched for may be a name, so it goes in the body: addresses are written down by whoever passes them on. */
  async search(asked: { search: string; limit: number }, signal?: AbortSignal): Promise<SeriesList> {
    const url = `${this.addresses.pacs}/series/search`;
    return seriesOf(await ask(url, { method: "POST", body: asked, headers: this.pacsHeaders, signal }));
  }

  async images(studyId: string, seriesId: string): Promise<ImageLink[]> {
    const url = `${this.addresses.pacs}/studies/${pathOf(studyId)}/images${query({ series_id: seriesId })}`;
    return askJson(url, { headers: this.pacsHeaders });
  }

  async thumbnail(studyId: string, seriesId: string, signal: AbortSignal): Promise<Blob> {
    const url = `${this.addresses.pacs}/thumbnail${query({ study_id: studyId, series_id: seriesId })}`;
    // API Gateway passes on as bytes only what is accepted before all else (docs/aws.md).
    const headers = { ...this.pacsHeaders, accept: "image/png" };
    // The PACS API lets a browser keep it, and tells by its ETag whether it is still the one.
    return (await ask(url, { headers, signal, cache: "default" })).blob();
  }

  // Admins.

  async registry(): Promise<{ algorithms: Algorithm[]; next_cursor: string | null }> {
    return askJson(`${this.addresses.api}/admin/algorithms${query({ limit: 1000 })}`, { headers: this.adminHeaders });
  }

  async record(algoId: string): Promise<Algorithm> {
    return askJson(this.adminUrl(algoId), { headers: this.adminHeaders });
  }

  async register(spec: NewAlgorithm): Promise<Algorithm> {
    return askJson(`${this.addresses.api}/admin/algorithms`, {
      method: "POST",
      body: spec,
      headers: this.adminHeaders,
    });
  }

  async update(algoId: string, patch: AlgorithmPatch, revision: number): Promise<Algorithm> {
    return askJson(this.adminUrl(algoId), {
      method: "PATCH",
      body: patch,
      headers: { ...this.adminHeaders, "if-match": `"${revision}"` },
    });
  }

  async remove(algoId: string, how: { hard: boolean; force: boolean }, revision: number): Promise<Algorithm> {
    const asked = how.hard ? { hard: "true", force: how.force ? "true" : null } : {};
    return askJson(`${this.adminUrl(algoId)}${query(asked)}`, {
      method: "DELETE",
      headers: { ...this.adminHeaders, "if-match": `"${revision}"` },
    });
  }

  async statistics(algoId: string, hours: number): Promise<Statistics> {
    return askJson(`${this.adminUrl(algoId)}/statistics${query({ hours })}`, { headers: this.adminHeaders });
  }

  async logs(algoId: string, cursor: string | null): Promise<LogPage> {
    const asked = { lines: 500, cursor };
    return askJson(`${this.adminUrl(algoId)}/logs${query(asked)}`, { headers: this.adminHeaders });
  }

  private adminUrl(algoId: string): string {
    return `${this.addresses.api}/admin/algorithms/${encodeURIComponent(algoId)}`;
  }
}

async function seriesOf(answer: Response): Promise<SeriesList> {
  const series = (await answer.json()) as Series[];
  return { series, isMore: answer.headers.get("x-more-series") === "true" };
}

/** Study ids may be PACS paths, whose slashes stay. */
function pathOf(id: string): string {
  return id.split("/").map(encodeURIComponent).join("/");
}
