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

/** What went wrong, as somebody who uses the page needs it. */
export interface Explained {
  words: string;
  /** What to do about it, where that is known. */
  fix: string | null;
  /** The platform's own sentence, which is English, where ``words`` is another. */
  detail: string | null;
  code: string | null;
}

type Place = "api" | "pacs";

export function explain(error: unknown, t: Translate, place: Place = "api"): Explained {
  if (!isStated(error)) {
    return { words: error instanceof Error ? error.message : String(error), fix: null, detail: null, code: null };
  }
  // A PACS that isn't ours has a code of its own, or none.
  const code = place === "pacs" && error instanceof ApiError && error.status === 401 ? "UNAUTHORIZED" : error.code;
  const words = known(`error.${code}`, t);
  const detail = words === null || code === "NO_ANSWER" ? null : error.message;
  return { words: words ?? error.message, fix: known(`fix.${code}`, t), detail, code: error.code };
}

function isStated(error: unknown): error is { code: string; message: string } {
  return typeof error === "object" && error !== null && "code" in error && typeof error.code === "string" && "message" in error;
}

function known(key: string, t: Translate): string | null {
  return key in en ? t(key as Key) : null;
}

/** A failure in a line. */
export function wordsOf(error: unknown, t: Translate, place: Place = "api"): string {
  const { words, fix } = explain(error, t, place);
  return fix === null ? words : `${words} ${fix}`;
}

/** 0.4 s, 12 s, 3 min. */
export function duration(seconds: number): string {
  if (seconds < 10) return `${toTenth(seconds)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${toTenth(seconds / 3600)} h`;
}

function toTenth(value: number): string {
  return value.toLocaleString(language.get(), { minimumFractionDigits: 1, maximumFractionDigits: 1 });
}
