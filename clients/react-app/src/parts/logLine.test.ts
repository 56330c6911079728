import { expect, it } from "vitest";

import { readLine, readReason } from "./logLine";

it("reads a worker's line", () => {
  const line = { time: "2026-01-02T03:04:05.678Z", level: "ERROR", message: "it broke", algo_id: "a", job_id: "j", places: [1, { a: 2 }] };
  expect(readLine(JSON.stringify(line), "a")).toEqual({
    time: "03:04:05.678",
    at: "2026-01-02T03:04:05.678Z",
    level: "ERROR",
    message: "it broke",
    rest: "job_id=j places=1, a 2",
  });
});

it("reads a reason that quotes one", () => {
  expect(readReason('the worker exited: {"message": "no such package"}')).toBe("the worker exited: no such package");
  expect(readReason("no {room}")).toBe("no {room}");
});

it("leaves everything else as it is", () => {
  for (const line of ["Traceback (most recent call last):", "[1, 2]", "3", "null", '{"no": "message"}', '{"message": 1}', "{"]) {
    expect(readLine(line, "a")).toBeNull();
  }
});
