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

it("keeps the client_id that was asked for with the newer key, though the older answer comes last", async () => {
  const kept: string[] = [];
  vi.stubGlobal("localStorage", { getItem: () => null, setItem: (_: string, id: string) => kept.push(id) });
  const older = ensureClientId();
  changeKeys({ client: "key" });
  const newer = ensureClientId();
  asked[1]?.answer(200, { client_id: "client-new" });
  expect(await newer).toBe("client-new");
  asked[0]?.answer(200, { client_id: "client-old" });
  expect(await older).toBe("client-new");
  expect(current().clientId).toBe("client-new");
  expect(kept).toEqual(["client-new"]);
});

it("asks anew with the key that came while it asked, so that nobody gets the older client_id", async () => {
  const older = ensureClientId();
  changeKeys({ client: "key" });
  asked[0]?.answer(200, { client_id: "client-old" });
  await vi.waitFor(() => expect(asked.map(({ key }) => key)).toEqual([null, "key"]));
  asked[1]?.answer(200, { client_id: "client-new" });
  expect(await older).toBe("client-new");
  expect(current().clientId).toBe("client-new");
});
