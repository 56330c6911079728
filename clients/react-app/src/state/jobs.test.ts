import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import type { Job } from "../api/types";

vi.stubGlobal("window", { addEventListener: () => undefined });
vi.stubGlobal("location", { hash: "" });
vi.stubGlobal("localStorage", { getItem: () => null, setItem: () => undefined, removeItem: () => undefined });
const { jobs, merged, openResult, pollJobs, shownOf } = await import("./jobs");
const { isOf, opened } = await import("./route");
const { openSession } = await import("./session");

const job = (change: Partial<Job>): Job => ({
  job_id: "a",
  algo_id: "processing_1",
  client_id: "c",
  status: "QUEUED",
  created_at: "2026-01-01T00:00:00Z",
  attempts: 0,
  pacs: null,
  ...change,
});

describe("merged", () => {
  it("puts the newest first", () => {
    const older = job({ job_id: "a", created_at: "2026-01-01T00:00:00Z" });
    const newer = job({ job_id: "b", created_at: "2026-01-02T00:00:00Z" });
    expect(merged([older], [newer]).map((one) => one.job_id)).toEqual(["b", "a"]);
  });

  it("lets no late answer take an end back", () => {
    const ended = job({ status: "SUCCEEDED", attempts: 1 });
    expect(merged([ended], [job({ status: "RUNNING", attempts: 1 })])[0]?.status).toBe("SUCCEEDED");
  });

  it("opens a job again that was replayed", () => {
    const failed = job({ status: "FAILED", attempts: 1 });
    expect(merged([failed], [job({ status: "RUNNING", attempts: 2 })])[0]?.status).toBe("RUNNING");
  });
});

describe("a listing", () => {
  const failed = { status: "FAILED", algoId: "" } as const;
  const old = job({ job_id: "old", status: "FAILED", created_at: "2026-01-01T00:00:00Z" });
  const young = job({ job_id: "young", status: "FAILED", created_at: "2026-01-03T00:00:00Z" });
  const other = job({ job_id: "other", created_at: "2026-01-04T00:00:00Z" });

  it("shows what fits, and nothing from before it has been read", () => {
    const known = (since: string) => shownOf([other, young, old], failed, { nextCursor: "x", knownSince: since });
    expect(known("2026-01-02T00:00:00Z").map((one) => one.job_id)).toEqual(["young"]);
    expect(known("").map((one) => one.job_id)).toEqual(["young", "old"]);
  });

  it("is empty before it has been read", () => {
    expect(shownOf([old], failed, undefined)).toEqual([]);
  });
});

describe("isOf", () => {
  const series = { study_id: "1.2", series_id: "1.2.1" };
  const of = (study_id: string, series_id?: string) =>
    isOf(job({ pacs: { study_id, ...(series_id && { series_id }), scope: "series" } }), series);

  it("knows the series that a job was made from", () => {
    expect([of("1.2", "1.2.1"), of("1.2")]).toEqual([true, true]);
  });

  it("takes no result of another study or series, or of none that is known", () => {
    expect([of("1.3", "1.2.1"), of("1.2", "1.2.2"), of("1.3"), isOf(job({ pacs: null }), series)]).toEqual([false, false, false, false]);
  });
});

describe("links to a result's files", () => {
  const withLink = (url: string) => ({ ...job({ status: "SUCCEEDED" }), result: { dicom: { url } } });
  const pacs = { study_id: "1.2", series_id: "1.2.3", scope: "series" };
  const linkNow = () => (jobs.get().jobs[0] as unknown as ReturnType<typeof withLink>).result.dicom.url;
  let made = 0;

  beforeEach(() => {
    made = 0;
    vi.useFakeTimers();
    vi.stubGlobal("document", { hidden: true });
    vi.stubGlobal("fetch", (url: string) => {
      const body = url.includes("/jobs/") ? withLink(`http://s3/${(made += 1)}`) : [];
      return Promise.resolve(new Response(JSON.stringify(body)));
    });
    openSession({ api: "http://platform", pacs: "http://platform/pacs", ws: "ws://platform", pacsKey: "" });
  });
  afterEach(() => vi.useRealTimers());

  it("are made anew when it is opened, and before they end while it is open", async () => {
    await openResult({ ...job({ status: "SUCCEEDED" }), pacs } as Job);
    expect([linkNow(), opened.get()?.jobId]).toEqual(["http://s3/1", "a"]);
    const stop = pollJobs();
    await vi.advanceTimersByTimeAsync(14 * 60_000);
    stop();
    expect(linkNow()).toBe("http://s3/2");
    await vi.advanceTimersByTimeAsync(60 * 60_000);
    expect(made).toBe(2);
  });
});
