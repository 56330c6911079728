import { lazy, Suspense, useEffect, useRef, useState } from "react";

import { setLanguage, language, useWords } from "./i18n";
import type { Language } from "./i18n";
import { Boundary } from "./parts/Boundary";
import { KeysDialog } from "./parts/KeysDialog";
import { Jobs } from "./screens/Jobs";
import { Find } from "./screens/Find";
import { loadViewer, Viewer } from "./screens/Viewer";
import { connection, follow } from "./state/connection";
import { jobs, pollJobs, refreshJobs, takeResult } from "./state/jobs";
import { go, screen, SCREENS } from "./state/route";
import { session } from "./state/session";
import { useStore } from "./state/store";
import { setTheme, theme } from "./state/theme";

const Algorithms = lazy(() => import("./screens/Algorithms"));

export function App() {
  const t = useWords();
  const shown = useStore(screen);
  const here = useStore(session);
  const clientKey = here?.platform.keys.client;
  const main = useRef<HTMLElement>(null);

  useEffect(() => {
    const ends = [
      follow({
        onOpen: () => void refreshJobs().catch(() => undefined),
        onResult: (message) => void takeResult(message).catch(() => undefined),
      }),
      pollJobs(),
    ];
    return () => ends.forEach((end) => end());
  }, [clientKey]);

  // Whoever looks through the list opens a series next: what shows it comes once the list has been asked for.
  useEffect(() => {
    void loadViewer().catch(() => undefined);
  }, []);

  const isFirst = useRef(true);
  useEffect(() => {
    document.title = `${t(`nav.${shown}`)} · ${t("app.title")}`;
    if (!isFirst.current) {
      // By itself the browser would scroll the heading below the bar that stays at the top.
      main.current?.focus({ preventScroll: true });
      window.scrollTo(0, 0);
    }
    isFirst.current = false;
    // Only a change of the screen moves the focus, not one of the language.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [shown]);

  return (
    <div className="app">
      <a
        className="skip"
        href="#main"
        onClick={(event) => {
          event.preventDefault();
          main.current?.focus();
        }}
      >
        {t("app.skip")}
      </a>
      <Header />
      <main ref={main} id="main" tabIndex={-1} className={`screen screen-${shown}`}>
        <Boundary key={shown}>
          <Suspense fallback={<p className="quiet" role="status">{t("common.loading")}…</p>}>
            {shown === "find" && <Find />}
            {shown === "viewer" && <Viewer />}
            {shown === "jobs" && <Jobs />}
            {shown === "algorithms" && <Algorithms />}
          </Suspense>
        </Boundary>
      </main>
      <footer className="foot">{t("app.research")}</footer>
    </div>
  );
}

function Header() {
  const t = useWords();
  const shown = useStore(screen);
  const open = useStore(jobs).jobs.filter((job) => job.status === "QUEUED" || job.status === "RUNNING").length;
  const [keys, setKeys] = useState(false);
  const now = useStore(theme);
  return (
    <header className="top">
      <div className="brand">
        <img src="/icon.svg" alt="" width="26" height="26" />
        <span>{t("app.title")}</span>
      </div>
      <nav aria-label={t("nav.label")} className="tabs">
        {SCREENS.map((name) => (
          <a
            key={name}
            href={`#/${name}`}
            aria-current={shown === name ? "page" : undefined}
            onClick={(event) => {
              event.preventDefault();
              go(name);
            }}
          >
            {t(`nav.${name}`)}
            {name === "jobs" && open > 0 && <span className="count">{open}</span>}
          </a>
        ))}
      </nav>
      <div className="top-right">
        <ConnectionSign />
        <button type="button" className="plain" onClick={() => setKeys(true)}>
          {t("keys.open")}
        </button>
        <LanguageChoice />
        <button
          type="button"
          className="plain icon"
          aria-label={t(now === "dark" ? "theme.to.light" : "theme.to.dark")}
          title={t(now === "dark" ? "theme.to.light" : "theme.to.dark")}
          onClick={() => setTheme(now === "dark" ? "light" : "dark")}
        >
          <svg viewBox="0 0 20 20" width="18" height="18" aria-hidden="true">
            <circle cx="10" cy="10" r="7" fill="none" stroke="currentColor" strokeWidth="2" />
            <path d="M10 3a7 7 0 0 1 0 14z" fill="currentColor" />
          </svg>
        </button>
      </div>
      {keys && <KeysDialog onClose={() => setKeys(false)} />}
    </header>
  );
}

function ConnectionSign() {
  const t = useWords();
  const { state, reason } = useStore(connection);
  return (
    <span className={`connection is-${state}`} role="status" title={reason ?? undefined}>
      <span className="dot" aria-hidden="true" />
      <span className="connection-words">{t(`connection.${state}`)}</span>
    </span>
  );
}

function LanguageChoice() {
  const t = useWords();
  const now = useStore(language);
  return (
    <select
      className="plain"
      aria-label={t("language.label")}
      value={now}
      onChange={(event) => setLanguage(event.target.value as Language)}
    >
      <option value="en">EN</option>
      <option value="it">IT</option>
    </select>
  );
}
