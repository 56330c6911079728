/** This client's jobs, live, and the listings that the platform makes of them. */
import { ApiError } from "../api/http";
import type { Job, JobStatus, PacsRef, ResultMessage, Series } from "../api/types";
import { opened, openSeries } from "./route";
import { current, ensureClientId } from "./session";
import { Store } from "./store";

export interface Order {
  algoId: string;
  pacs: PacsRef;
  parameters: Record<string, unknown>;
}

/** Which jobs a listing is of; "" is all. */
export interface Filter {
  status: JobStatus | "";
  algoId: string;
}

/** How far back a listing has been read. */
export interface Listing {
  nextCursor: string | null;
  /** No job of it that was sent before this moment is known for sure; "" once all are. */
  knownSince: string;
}

export interface JobsState {
  /** All that is known, newest first. */
  jobs: Job[];
  /** By filter. */
  listings: ReadonlyMap<string, Listing>;
}

export const jobs = new Store<JobsState>({ jobs: [], listings: new Map() });

export const ALL: Filter = { status: "", algoId: "" };
const PAGE = 100;
const POLL_MS = 1000;
/** Less than the quarter of an hour for which links to a result's files are good (docs/aws.md). */
const RENEW_MS = 10 * 60_000;
const MOST_ASKED_ALONE = 10;
/** Pages without a job that are read on; of few jobs among many the platform may have such. */
const MOST_EMPTY_PAGES = 20;

export const keyOf = (filter: Filter): string => `${filter.status}/${filter.algoId}`;

export const fits = (job: Job, filter: Filter): boolean =>
  (!filter.status || job.status === filter.status) && (!filter.algoId || job.algo_id === filter.algoId);

/** What a listing shows: without gaps, so nothing from before it has been read. */
export function shownOf(all: Job[], filter: Filter, listing: Listing | undefined): Job[] {
  if (!listing) return [];
  return all.filter((job) => fits(job, filter) && job.created_at >= listing.knownSince);
}

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
export async function refreshJobs(filter: Filter = ALL): Promise<void> {
  const before = jobs.get().jobs;
  const found = await pageOf(filter, null);
  const listing = jobs.get().listings.get(keyOf(filter));
  const known = new Set(before.map((job) => job.job_id));
  const meets = listing !== undefined && found.jobs.some((job) => known.has(job.job_id) && job.created_at >= listing.knownSince);
  take(found.jobs);
  if (!meets) setListing(filter, found);
  if (filter !== ALL) return;
  const seen = new Set(found.jobs.map((job) => job.job_id));
  await askAlone(jobs.get().jobs.filter((job) => isOpen(job) && !seen.has(job.job_id)));
}

export async function loadMoreJobs(filter: Filter): Promise<void> {
  const cursor = jobs.get().listings.get(keyOf(filter))?.nextCursor ?? null;
  if (cursor === null) return;
  const found = await pageOf(filter, cursor);
  take(found.jobs);
  setListing(filter, found);
}

interface Found {
  jobs: Job[];
  next_cursor: string | null;
}

async function pageOf(filter: Filter, from: string | null): Promise<Found> {
  const clientId = await ensureClientId();
  const { platform } = current();
  let cursor = from;
  for (let tries = 0; ; tries += 1) {
    const page = await platform.jobs({
      client_id: clientId,
      ...(filter.status && { status: filter.status }),
      ...(filter.algoId && { algo_id: filter.algoId }),
      limit: PAGE,
      cursor,
    });
    if (page.jobs.length || page.next_cursor === null || tries === MOST_EMPTY_PAGES) return page;
    cursor = page.next_cursor;
  }
}

function setListing(filter: Filter, found: Found): void {
  const before = jobs.get().listings.get(keyOf(filter));
  const oldest = found.jobs.at(-1)?.created_at ?? before?.knownSince ?? new Date().toISOString();
  const listing = { nextCursor: found.next_cursor, knownSince: found.next_cursor === null ? "" : oldest };
  jobs.update({ listings: new Map(jobs.get().listings).set(keyOf(filter), listing) });
}

async function askAlone(open: Job[]): Promise<void> {
  const asked = open.slice(0, MOST_ASKED_ALONE).map((job) => current().platform.job(job.job_id));
  for (const answer of await Promise.allSettled(asked)) if (answer.status === "fulfilled") take([answer.value]);
}

/**
 * While jobs wait or run, their place and progress are asked for; ends are pushed. The job whose result is open is asked
 * for now and then, since links to its files end.
 */
export function pollJobs(): () => void {
  let busy = false;
  const renewing = setInterval(() => {
    const jobId = opened.get()?.jobId;
    if (jobId) void renew(jobId).catch(() => undefined);
  }, RENEW_MS);
  const timer = setInterval(() => {
    const open = jobs.get().jobs.filter(isOpen);
    if (busy || !open.length || document.hidden) return;
    busy = true;
    const asking = open.length <= MOST_ASKED_ALONE ? askAlone(open) : refreshJobs();
    void asking.catch(() => undefined).finally(() => (busy = false));
  }, POLL_MS);
  return () => {
    clearInterval(timer);
    clearInterval(renewing);
  };
}

/** Learn of a job anew, with links to its files that have just been made. */
async function renew(jobId: string): Promise<void> {
  take([await current().platform.job(jobId)]);
}

export async function takeResult(message: ResultMessage): Promise<void> {
  const known = jobs.get().jobs.find((job) => job.job_id === message.job_id);
  if (known) take([{ ...known, status: message.status, error: message.error ?? null }]);
  // Its times and signed addresses are on its record.
  await renew(message.job_id);
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
  const status: JobStatus = "QUEUED";
  const job: Job = {
    job_id: jobId,
    algo_id: order.algoId,
    client_id: clientId,
    status,
    created_at: new Date().toISOString(),
    attempts: 0,
    pacs: order.pacs,
  };
  take([job]);
  await askAlone([job]);
  return jobId;
}

export async function cancelJob(jobId: string): Promise<void> {
  take([await current().platform.cancel(jobId)]);
}

/** The same again, as the platform says it was asked for; null where it doesn't know. */
export async function runAgain(job: Job): Promise<string | null> {
  const { pacs, parameters } = await current().platform.job(job.job_id);
  return pacs === null ? null : submitJob({ algoId: job.algo_id, pacs, parameters });
}

/** Open what the job was made from, with its result beside it. */
export async function openResult(job: Job): Promise<void> {
  if (job.pacs === null) return;
  // The list may have been asked for long ago. Where there is no answer, the links it came with may still be good.
  const renewed = renew(job.job_id).catch(() => undefined);
  const { study_id, series_id } = job.pacs;
  if (series_id) {
    // What it is called is told beside it; it is shown without, too.
    const found = await current().platform.series({ study_id, series_id }).catch(() => null);
    await renewed;
    return openSeries(found?.series[0] ?? { study_id, series_id }, job);
  }
  // Of a study the platform takes the series that has most images.
  const series = largest((await current().platform.series({ study_id })).series);
  await renewed;
  if (series) openSeries(series, job);
}

function largest(series: Series[]): Series | undefined {
  return [...series].sort((a, b) => (b.images ?? 0) - (a.images ?? 0))[0];
}

/** 128 random bits; ``crypto.randomUUID`` is only there on secure origins. */
function randomId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `web-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
