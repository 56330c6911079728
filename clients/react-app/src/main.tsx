import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { App } from "./App";
import { readAddresses } from "./config";
import { language } from "./i18n";
import { openSession } from "./state/session";
import "./style.css";

document.documentElement.lang = language.get();
openSession(await readAddresses());

const root = document.getElementById("root");
if (root === null) throw new Error("the page has no #root");
createRoot(root).render(
  <StrictMode>
    <App />
  </StrictMode>,
);
