import { expect, it } from "vitest";

import { readLine } from "./logLine";

it("reads a worker's line", () => {
  const line = { time: "2026-01-02T03:04:05.678Z", level: "ERROR", message: "it broke", algo_id: "a", job_id: "j", places: [1] };
  expect(readLine(JSON.stringify(line), "a")).toEqual({
    time: "03:04:05.678",
    at: "2026-01-02T03:04:05.678Z",
    level: "ERROR",
    message: "it broke",
    rest: "job_id=j places=[1]",
  });
});

it("leaves everything else as it is", () => {
  for (const line of ["Traceback (most recent call last):", "[1, 2]", "3", "null", '{"no": "message"}', '{"message": 1}', "{"]) {
    expect(readLine(line, "a")).toBeNull();
  }
});
