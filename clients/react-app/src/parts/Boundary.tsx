import { Component } from "react";
import type { ReactNode } from "react";

import { useWords } from "../i18n";

interface State {
  failed: boolean;
}

/** Keeps a failure in one screen from taking the page with it. */
export class Boundary extends Component<{ children: ReactNode }, State> {
  override state: State = { failed: false };

  static getDerivedStateFromError(): State {
    return { failed: true };
  }

  override render(): ReactNode {
    return this.state.failed ? <Broken onRetry={() => this.setState({ failed: false })} /> : this.props.children;
  }
}

function Broken({ onRetry }: { onRetry: () => void }) {
  const t = useWords();
  return (
    <div className="note bad" role="alert">
      <p>{t("app.broken")}</p>
      <button type="button" onClick={onRetry}>
        {t("common.retry")}
      </button>
    </div>
  );
}
