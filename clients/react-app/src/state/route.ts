/** Which screen is shown is in the address; which images are is not. */
import type { Job, Series } from "../api/types";
import { Store } from "./store";

export const SCREENS = ["find", "viewer", "jobs", "algorithms"] as const;
export type Screen = (typeof SCREENS)[number];

function screenOf(hash: string): Screen {
  const name = hash.replace(/^#\/?/, "");
  return SCREENS.find((screen) => screen === name) ?? "find";
}

export const screen = new Store<Screen>(screenOf(location.hash));

window.addEventListener("hashchange", () => screen.set(screenOf(location.hash)));

export function go(to: Screen): void {
  location.hash = `#/${to}`;
  screen.set(to); // the browser tells of the new address some time later
}

export interface Opened {
  series: Pick<Series, "study_id" | "series_id"> & Partial<Series>;
  /** A job whose result is shown beside it. */
  jobId: string | null;
}

/** Whether ``job`` was made from the series: the only one that its result may be shown beside. */
export function isOf(job: Pick<Job, "pacs">, series: Opened["series"]): boolean {
  const { pacs } = job;
  return pacs !== null && pacs.study_id === series.study_id && (!pacs.series_id || pacs.series_id === series.series_id);
}

export const opened = new Store<Opened | null>(null);

export function openSeries(series: Opened["series"], job: Job | null = null): void {
  opened.set({ series, jobId: job?.job_id ?? null });
  go("viewer");
}
