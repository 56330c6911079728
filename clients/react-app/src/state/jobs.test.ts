import { describe, expect, it, vi } from "vitest";

import type { Job } from "../api/types";

vi.stubGlobal("localStorage", { getItem: () => null, setItem: () => undefined, removeItem: () => undefined });
const { merged, seriesOfKey } = await import("./jobs");

const job = (change: Partial<Job>): Job => ({
  job_id: "a",
  algo_id: "processing_1",
  client_id: "c",
  status: "QUEUED",
  created_at: "2026-01-01T00:00:00Z",
  attempts: 0,
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

describe("seriesOfKey", () => {
  it("reads the ids of a result's key", () => {
    expect(seriesOfKey("processing_1/1.2/3.4/x.dcm", "processing_1")).toEqual({ study_id: "1.2", series_id: "3.4" });
  });

  it("guesses nothing where ids hold slashes, or the key is another algorithm's", () => {
    expect(seriesOfKey("processing_1/a/b/c/d.dcm", "processing_1")).toBeNull();
    expect(seriesOfKey("other/1.2/3.4/x.dcm", "processing_1")).toBeNull();
    expect(seriesOfKey(undefined, "processing_1")).toBeNull();
  });
});
