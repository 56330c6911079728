import { describe, expect, it, vi } from "vitest";

vi.stubGlobal("localStorage", { getItem: () => null });
vi.stubGlobal("navigator", { language: "en" });
const { changesOf, fieldOf, NEW_DRAFT, problemsOf, rebased } = await import("./spec");

const good = { ...NEW_DRAFT, id: "liver_1", image: "mip:1" };
const wrong = (change: Partial<typeof good>) => Object.keys(problemsOf({ ...good, ...change }, null, (key) => key));

describe("problemsOf", () => {
  it("finds nothing wrong with what the API takes", () => {
    expect(wrong({})).toEqual([]);
    expect(wrong({ workers: "0", least: "2", most: "3" })).toEqual([]);
    expect(wrong({ env: "A=1\nB=x=y", parameters: '{"type": "object"}' })).toEqual([]);
  });

  it("names each field that the API would refuse", () => {
    expect(wrong({ id: "Liver" })).toEqual(["id"]);
    expect(wrong({ id: "x-dlq" })).toEqual(["id"]);
    expect(wrong({ image: "two words" })).toEqual(["image"]);
    expect(wrong({ cpu: 256, memory: 4096 })).toEqual(["memory"]);
    expect(wrong({ workers: "-1" })).toEqual(["workers"]);
    expect(wrong({ workers: "2", least: "3", most: "1" })).toEqual(["least", "most"]);
    expect(wrong({ command: "\n" })).toEqual(["command"]);
    expect(wrong({ env: "1A=2" })).toEqual(["env"]);
    expect(wrong({ env: "NAME" })).toEqual(["env"]);
    expect(wrong({ parameters: "[1]" })).toEqual(["parameters"]);
    expect(wrong({ outputs: [] })).toEqual(["outputs"]);
  });
});

it("sends what was changed, and a schema that is no more as one of nothing", () => {
  const before = { ...good, parameters: '{"type": "object", "properties": {"a": {"type": "string"}}}' };
  expect(changesOf({ ...before, image: "mip:2" }, before)).toEqual({ image_uri: "mip:2" });
  expect(changesOf({ ...before, parameters: "" }, before)).toEqual({ parameters: { type: "object", properties: {} } });
});

it("puts what was meant on what the record is by now", () => {
  const theirs = { ...good, cpu: 2048, memory: 4096 };
  expect(rebased({ ...good, image: "mip:2" }, good, theirs)).toEqual({ ...theirs, image: "mip:2" });
});

it("shows a refusal where it belongs", () => {
  expect(fieldOf({ field: "command.0", problem: "too long" })).toBe("command");
  expect(fieldOf({ field: "body", problem: "env may not set QUEUE_URL: the platform sets it" })).toBe("env");
  expect(fieldOf({ field: "body", problem: "with cpu 256, memory must be one of …" })).toBe("cpu");
});
