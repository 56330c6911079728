import { expect, it, vi } from "vitest";

vi.stubGlobal("localStorage", { getItem: () => null, setItem: () => undefined, removeItem: () => undefined });
const { backoffMs } = await import("./connection");

it("waits twice as long each time, up to a quarter of a minute", () => {
  expect([0, 1, 2, 3].map((tries) => backoffMs(tries, 1))).toEqual([500, 1000, 2000, 4000]);
  expect(backoffMs(30, 1)).toBe(15_000);
});

it("never waits less than half of that", () => {
  expect(backoffMs(3, 0)).toBe(2000);
});
