import { beforeEach, expect, it, vi } from "vitest";

vi.stubGlobal("localStorage", { getItem: () => null, setItem: () => undefined, removeItem: () => undefined });
const { changeKeys, current, ensureClientId, openSession } = await import("./session");

interface Asked {
  key: string | null;
  answer(status: number, body: unknown): void;
}

let asked: Asked[];

beforeEach(() => {
  asked = [];
  vi.stubGlobal("fetch", (_: string, init: RequestInit) => {
    const key = new Headers(init.headers).get("x-api-key");
    return new Promise<Response>((resolve) => {
      asked.push({ key, answer: (status, body) => resolve(new Response(JSON.stringify(body), { status })) });
    });
  });
  openSession({ api: "http://platform", pacs: "http://platform/pacs", ws: "ws://platform", pacsKey: "" });
});

it("asks once for a client_id, however many want it", async () => {
  const both = [ensureClientId(), ensureClientId()];
  expect(asked.length).toBe(1);
  asked[0]?.answer(200, { client_id: "client-1" });
  expect(await Promise.all(both)).toEqual(["client-1", "client-1"]);
});

it("asks with a key that was given meanwhile, whatever comes of asking without", async () => {
  const without = ensureClientId();
  changeKeys({ client: "key" });
  const withKey = ensureClientId();
  expect(asked.map(({ key }) => key)).toEqual([null, "key"]);
  asked[0]?.answer(401, { error: { code: "UNAUTHORIZED", message: "a key is needed" } });
  await expect(without).rejects.toThrow("a key is needed");
  asked[1]?.answer(200, { client_id: "client-2" });
  expect(await withKey).toBe("client-2");
  expect(current().clientId).toBe("client-2");
});
