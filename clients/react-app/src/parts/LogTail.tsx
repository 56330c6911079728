import { useEffect, useRef, useState } from "react";

import { ApiError } from "../api/http";
import { useWords } from "../i18n";
import { Failure } from "./Failure";
import { readLine } from "./logLine";
import { session } from "../state/session";
import { useStore } from "../state/store";

const EVERY_MS = 2000;
const MOST_LINES = 1000;

/** The newest lines of an algorithm's log, and what is added to it. */
export function LogTail({ algoId }: { algoId: string }) {
  const t = useWords();
  const here = useStore(session);
  const [lines, setLines] = useState<string[]>([]);
  const [failure, setFailure] = useState<unknown>(null);
  const [isFollowed, setFollowed] = useState(true);
  const cursor = useRef<string | null>(null);
  const gap = useRef("");
  gap.current = t("algorithms.logs.gap");
  const box = useRef<HTMLDivElement>(null);

  useEffect(() => {
    cursor.current = null;
    setLines([]);
  }, [algoId]);

  useEffect(() => {
    if (!isFollowed || here === null) return;
    let isCurrent = true;
    const read = async (): Promise<void> => {
      try {
        const page = await here.platform.logs(algoId, cursor.current);
        if (!isCurrent) return;
        const isMore = cursor.current !== null;
        const come = page.gap && isMore ? [gap.current, ...page.lines] : page.lines;
        if (come.length) setLines((before) => [...(isMore ? before : []), ...come].slice(-MOST_LINES));
        cursor.current = page.cursor;
        setFailure(null);
      } catch (error) {
        if (!isCurrent) return;
        // The algorithm was removed and registered anew: its log begins anew, too.
        if (error instanceof ApiError && error.code === "INVALID_CURSOR") cursor.current = null;
        else setFailure(error);
      }
    };
    void read();
    const timer = setInterval(() => void read(), EVERY_MS);
    return () => {
      isCurrent = false;
      clearInterval(timer);
    };
  }, [algoId, isFollowed, here]);

  useEffect(() => {
    if (isFollowed && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines, isFollowed]);

  return (
    <section aria-label={t("algorithms.logs")}>
      <div className="panel-head">
        <h3>{t("algorithms.logs")}</h3>
        <button type="button" className="plain" aria-pressed={!isFollowed} onClick={() => setFollowed(!isFollowed)}>
          {t(isFollowed ? "algorithms.logs.pause" : "algorithms.logs.follow")}
        </button>
      </div>
      {failure !== null && <Failure error={failure} isAlert={false} />}
      <div className="log" ref={box} tabIndex={0} role="log" aria-live="off" aria-label={t("algorithms.logs")}>
        {lines.length ? lines.map((line, at) => <Line key={at} line={line} algoId={algoId} />) : t("algorithms.logs.empty")}
      </div>
    </section>
  );
}

function Line({ line, algoId }: { line: string; algoId: string }) {
  const read = readLine(line, algoId);
  if (read === null) return <div className="log-line">{line}</div>;
  return (
    <div className={`log-line is-${read.level}`}>
      <time dateTime={read.at} title={read.at}>
        {read.time}
      </time>{" "}
      <b>{read.level}</b> {read.message} <span className="log-rest">{read.rest}</span>
    </div>
  );
}
