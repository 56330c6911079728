import { fileURLToPath } from "node:url";

import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";
import type { Plugin } from "vite";

/** What the platform sends with the page, here too, so that what it forbids is missed during development. */
const SECURITY_HEADERS = {
  "Content-Security-Policy":
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; " +
    "img-src 'self' blob: data:; connect-src 'self' http: https: ws: wss:; font-src 'self'; base-uri 'none'; " +
    "form-action 'none'; frame-ancestors 'none'",
  "Referrer-Policy": "no-referrer",
  "X-Content-Type-Options": "nosniff",
};

interface Change {
  /** The end of a module's path. */
  module: string;
  from: string;
  to: string;
}

/** Few words of other people's code that this page can't have as they are. */
const CHANGES: Change[] = [
  // A measurement's style is written as an attribute, which the policy forbids, where a property does as well.
  {
    module: "/drawingSvg/drawTextBox.js",
    from: "textElement.setAttribute('style', combinedStyle)",
    to: "textElement.style.cssText = combinedStyle",
  },
  // Each of a hundred loggers looks for its level in cookies, which takes a millisecond; there are none.
  { module: "/loglevel/lib/loglevel.js", from: "var cookie = window.document.cookie;", to: 'var cookie = "";' },
];

const changed: Plugin = {
  name: "changed",
  transform(code, id) {
    const change = CHANGES.find(({ module }) => id.split("?")[0]?.endsWith(module));
    if (!change) return null;
    if (!code.includes(change.from)) this.error(`${change.module} is another one now: see whether it still needs changing`);
    return code.replace(change.from, change.to);
  },
};

export default defineConfig({
  plugins: [react(), changed],
  envPrefix: "REACT_APP_",
  resolve: { alias: { xmlbuilder2: fileURLToPath(new URL("src/viewer/no-xml.ts", import.meta.url)) } },
  server: { port: 3000, strictPort: true },
  preview: { port: 3000, strictPort: true, headers: SECURITY_HEADERS },
  worker: { format: "es" },
  // Its workers and codecs are found by import.meta.url, which bundling for development would break; what it
  // imports of CommonJS is bundled all the same, since a browser can't read that.
  optimizeDeps: {
    exclude: ["@cornerstonejs/dicom-image-loader"],
    include: [
      "dicom-parser",
      ...["charls/decodewasmjs", "libjpeg-turbo-8bit/decodewasmjs", "libjxl/decodewasmjs", "openjpeg/decodewasmjs", "openjph/wasmjs"].map(
        (codec) => `@cornerstonejs/dicom-image-loader > @cornerstonejs/codec-${codec}`,
      ),
      "@cornerstonejs/dicom-image-loader > pako",
      "@cornerstonejs/dicom-image-loader > comlink",
    ],
  },
  build: { target: "es2022", sourcemap: false, assetsInlineLimit: 0, chunkSizeWarningLimit: 4000 },
});
