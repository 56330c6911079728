/** Words in the language of the page. */
import { ApiError } from "../api/http";
import { Store, useStore } from "../state/store";
import { en } from "./en";
import type { Key } from "./en";
import { it } from "./it";

export type { Key };
export type Language = "en" | "it";
type Values = Record<string, string | number>;
export type Translate = (key: Key, values?: Values) => string;

const KEPT = "mip.language";
const WORDS: Record<Language, Record<Key, string>> = { en, it };

function chosen(): Language {
  const kept = localStorage.getItem(KEPT) ?? navigator.language;
  return kept.startsWith("it") ? "it" : "en";
}

export const language = new Store<Language>(chosen());

export function setLanguage(value: Language): void {
  localStorage.setItem(KEPT, value);
  document.documentElement.lang = value;
  language.set(value);
}

export function useWords(): Translate {
  const words = WORDS[useStore(language)];
  return (key, values = {}) => filled(words[key], values);
}

/** ``text`` with ``{name}`` replaced. */
export function filled(text: string, values: Values): string {
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}

/** A failure in words: ours where the code is known, else the platform's own sentence. */
export function wordsOf(error: unknown, t: Translate, place: "api" | "pacs" = "api"): string {
  if (!(error instanceof ApiError)) return error instanceof Error ? error.message : String(error);
  if (place === "pacs" && error.status === 401) return t("error.PACS_KEY");
  const key = `error.${error.code}`;
  return key in en ? t(key as Key) : error.message;
}

/** What to do about a failed job, where that is known. */
export function fixOf(code: string, t: Translate): string | null {
  const key = `fix.${code}`;
  return key in en ? t(key as Key) : null;
}

/** 0.4 s, 12 s, 3 min. */
export function duration(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}
