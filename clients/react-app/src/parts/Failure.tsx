import type { ReactNode } from "react";

import { explain, useWords } from "../i18n";

interface Props {
  /** What was thrown, or a job's error. */
  error: unknown;
  place?: "api" | "pacs";
  /** Whether it is read out at once; a list of failed jobs isn't. */
  isAlert?: boolean;
  children?: ReactNode;
}

/** What went wrong and what to do about it, in the page's language; the platform's own sentence beside it. */
export function Failure({ error, place = "api", isAlert = true, children }: Props) {
  const t = useWords();
  const { words, fix, detail, code } = explain(error, t, place);
  return (
    <div className="note bad" role={isAlert ? "alert" : undefined}>
      <p>{words}</p>
      {fix && (
        <p>
          <strong>{t("fix.label")}</strong> {fix}
        </p>
      )}
      {(detail || code) && (
        <p className="detail">
          {detail && (
            <span lang="en">
              {t("fix.detail")} {detail}{" "}
            </span>
          )}
          {code && <code>{code}</code>}
        </p>
      )}
      {children}
    </div>
  );
}
