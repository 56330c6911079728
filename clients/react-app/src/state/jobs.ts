/** This client's jobs, live. What a job was asked for is known to the page that asked, and from its result's key. */
import { ApiError } from "../api/http";
import type { Job, JobStatus, PacsRef, ResultMessage } from "../api/types";
import { current, ensureClientId } from "./session";
import { Store } from "./store";

export interface Order {
  algoId: string;
  pacs: PacsRef;
  parameters: Record<string, unknown>;
}

export interface JobsState {
  /** Newest first. */
  jobs: Job[];
  nextCursor: string | null;
  isLoaded: boolean;
  orders: ReadonlyMap<string, Order>;
}

export const jobs = new Store<JobsState>({ jobs: [], nextCursor: null, isLoaded: false, orders: new Map() });

const PAGE = 100;
const POLL_MS = 1000;
const MOST_ASKED_ALONE = 10;

export const isOpen = (job: Job): boolean => job.status === "QUEUED" || job.status === "RUNNING";

/** ``known`` with ``news`` in it. A job moves only forward, so that a late answer takes nothing back. */
export function merged(known: Job[], news: Job[]): Job[] {
  const all = new Map(known.map((job) => [job.job_id, job]));
  for (const job of news) {
    const before = all.get(job.job_id);
    if (before && !isOpen(before) && isOpen(job) && job.attempts <= before.attempts) continue;
    all.set(job.job_id, job);
  }
  return [...all.values()].sort((a, b) => (a.created_at < b.created_at ? 1 : a.created_at > b.created_at ? -1 : 0));
}

function take(news: Job[]): void {
  jobs.update({ jobs: merged(jobs.get().jobs, news) });
}

/** Ask for the newest page; what ended while nobody listened is in it. */
export async function refreshJobs(): Promise<void> {
  const clientId = await ensureClientId();
  const page = await current().platform.jobs({ client_id: clientId, limit: PAGE });
  const first = !jobs.get().isLoaded;
  take(page.jobs);
  jobs.update({ isLoaded: true, ...(first ? { nextCursor: page.next_cursor } : {}) });
  const seen = new Set(page.jobs.map((job) => job.job_id));
  await askAlone(jobs.get().jobs.filter((job) => isOpen(job) && !seen.has(job.job_id)));
}

export async function loadMoreJobs(): Promise<void> {
  const { nextCursor } = jobs.get();
  if (nextCursor === null) return;
  const clientId = await ensureClientId();
  const page = await current().platform.jobs({ client_id: clientId, limit: PAGE, cursor: nextCursor });
  take(page.jobs);
  jobs.update({ nextCursor: page.next_cursor });
}

async function askAlone(open: Job[]): Promise<void> {
  const asked = open.slice(0, MOST_ASKED_ALONE).map((job) => current().platform.job(job.job_id));
  for (const answer of await Promise.allSettled(asked)) if (answer.status === "fulfilled") take([answer.value]);
}

/** While jobs wait or run, their place and progress are asked for; ends are pushed. */
export function pollJobs(): () => void {
  let busy = false;
  const timer = setInterval(() => {
    const open = jobs.get().jobs.filter(isOpen);
    if (busy || !open.length || document.hidden) return;
    busy = true;
    const asking = open.length <= MOST_ASKED_ALONE ? askAlone(open) : refreshJobs();
    void asking.catch(() => undefined).finally(() => (busy = false));
  }, POLL_MS);
  return () => clearInterval(timer);
}

export async function takeResult(message: ResultMessage): Promise<void> {
  const known = jobs.get().jobs.find((job) => job.job_id === message.job_id);
  if (known) take([{ ...known, status: message.status, error: message.error ?? null }]);
  // Its times and signed addresses are on its record.
  take([await current().platform.job(message.job_id)]);
}

/** Send a job. Sent again after a lost answer it is the same job, as it brings its own id. */
export async function submitJob(order: Order): Promise<string> {
  const clientId = await ensureClientId();
  const jobId = randomId();
  const body = { job_id: jobId, client_id: clientId, pacs: order.pacs, parameters: order.parameters };
  const send = () => current().platform.process(order.algoId, body);
  try {
    await send();
  } catch (error) {
    if (!(error instanceof ApiError) || !error.isAway) throw error;
    await send();
  }
  jobs.update({ orders: new Map(jobs.get().orders).set(jobId, order) });
  const status: JobStatus = "QUEUED";
  const job: Job = {
    job_id: jobId,
    algo_id: order.algoId,
    client_id: clientId,
    status,
    created_at: new Date().toISOString(),
    attempts: 0,
  };
  take([job]);
  await askAlone([job]);
  return jobId;
}

export async function cancelJob(jobId: string): Promise<void> {
  take([await current().platform.cancel(jobId)]);
}

/** How the job was ordered, as far as this page knows. */
export function orderOf(job: Job): Order | null {
  return jobs.get().orders.get(job.job_id) ?? null;
}

/** The series that the job was made from, for looking at it again. */
export function seriesOf(job: Job): { study_id: string; series_id: string } | null {
  const pacs = orderOf(job)?.pacs;
  if (pacs?.series_id) return { study_id: pacs.study_id, series_id: pacs.series_id };
  return seriesOfKey(job.result?.dicom.key, job.algo_id);
}

/** A result's key is ``{algo_id}/{study_id}/{series_id}/{file}``, where the ids are UIDs. */
export function seriesOfKey(key: string | undefined, algoId: string): { study_id: string; series_id: string } | null {
  const [first, study, series, file, ...more] = key?.split("/") ?? [];
  if (first !== algoId || !study || !series || !file || more.length) return null;
  return { study_id: study, series_id: series };
}

/** 128 random bits; ``crypto.randomUUID`` is only there on secure origins. */
function randomId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `web-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
