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
  // What is for segmentations, which `overlay.ts` draws here.
  { module: "/tools/dist/esm/store/addEnabledElement.js", from: "imageChangeEventListener.enable(element);", to: "" },
  { module: "/tools/dist/esm/store/removeEnabledElement.js", from: "imageChangeEventListener.disable(element);", to: "" },
  // Which textures can be drawn is tried out with pictures; of a program that draws them nothing is asked here.
  {
    module: "/core/dist/esm/utilities/renderingCapabilities.js",
    from: "if (!formats) {",
    to: "if (SOFTWARE_RASTERIZER_PATTERN.test(contextInfo.renderer)) formats = { ...NO_GPU_FORMATS, floatLinear: true };\n    if (!formats) {",
  },
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

/**
 * Modules that are imported and never run here: what shows other things than stacks of images, segmentations in
 * Cornerstone3D's own way, and the newer metadata provider (`useLegacyMetadataProvider`). Two thirds of the viewer would be these.
 */
const ABSENT = [
  "@cornerstonejs/core/dist/esm/RenderingEngine/ECGViewport.js",
  "@cornerstonejs/core/dist/esm/RenderingEngine/VideoViewport.js",
  "@cornerstonejs/core/dist/esm/RenderingEngine/VolumeViewport.js",
  "@cornerstonejs/core/dist/esm/RenderingEngine/VolumeViewport3D.js",
  "@cornerstonejs/core/dist/esm/RenderingEngine/WSIViewport.js",
  "@cornerstonejs/core/dist/esm/RenderingEngine/GenericViewport/ECG/ECGViewport.js",
  "@cornerstonejs/core/dist/esm/RenderingEngine/GenericViewport/ECG/ECGViewportLegacyAdapter.js",
  "@cornerstonejs/core/dist/esm/RenderingEngine/GenericViewport/Planar/PlanarViewport.js",
  "@cornerstonejs/core/dist/esm/RenderingEngine/GenericViewport/Planar/PlanarViewportLegacyAdapter.js",
  "@cornerstonejs/core/dist/esm/RenderingEngine/GenericViewport/Video/VideoViewport.js",
  "@cornerstonejs/core/dist/esm/RenderingEngine/GenericViewport/Video/VideoViewportLegacyAdapter.js",
  "@cornerstonejs/core/dist/esm/RenderingEngine/GenericViewport/Volume3D/viewport3D.js",
  "@cornerstonejs/core/dist/esm/RenderingEngine/GenericViewport/Volume3D/VolumeViewport3DLegacyAdapter.js",
  "@cornerstonejs/core/dist/esm/RenderingEngine/GenericViewport/WSI/WSIViewport.js",
  "@cornerstonejs/core/dist/esm/RenderingEngine/GenericViewport/WSI/WSIViewportLegacyAdapter.js",
  "@cornerstonejs/core/dist/esm/RenderingEngine/BaseVolumeViewport.js",
  "@cornerstonejs/core/dist/esm/RenderingEngine/TiledRenderingEngine.js",
  "@cornerstonejs/core/dist/esm/RenderingEngine/vtkClasses/vtkStreamingOpenGLVolumeMapper.js",
  "@cornerstonejs/core/dist/esm/cache/classes/BaseStreamingImageVolume.js",
  "@cornerstonejs/core/dist/esm/cache/classes/StreamingImageVolume.js",
  "@cornerstonejs/metadata/dist/esm/registerDefaultProviders.js",
  "@cornerstonejs/tools/dist/esm/utilities/contourSegmentation/addContourSegmentationAnnotation.js",
  "@cornerstonejs/tools/dist/esm/utilities/registerComputeWorker.js",
  "@kitware/vtk.js/Rendering/OpenGL/Glyph3DMapper.js",
  "@kitware/vtk.js/Rendering/OpenGL/ImageCPRMapper.js",
  "@kitware/vtk.js/Rendering/OpenGL/PolyDataMapper.js",
  "@kitware/vtk.js/Rendering/OpenGL/SphereMapper.js",
  "@kitware/vtk.js/Rendering/OpenGL/StickMapper.js",
  "@kitware/vtk.js/Rendering/OpenGL/VolumeMapper.js",
  "@kitware/vtk.js/Rendering/WebGPU/Profiles/Geometry.js",
  "@kitware/vtk.js/Rendering/WebGPU/Profiles/Volume.js",
];

const found = new Set<string>();

const absent: Plugin = {
  name: "absent",
  apply: "build",
  enforce: "pre",
  /** In its place the module's names, each of which refuses; so it may still be asked what is one of it. */
  transform(code, id) {
    const name = ABSENT.find((one) => id.endsWith(`/node_modules/${one}`));
    if (!name) return null;
    found.add(name);
    const names = this.parse(code).body.flatMap((node) => {
      if (node.type === "ExportDefaultDeclaration") return ["default"];
      if (node.type !== "ExportNamedDeclaration") return [];
      const declared = node.declaration;
      if (declared?.type === "VariableDeclaration") return declared.declarations.map(({ id }) => ("name" in id ? id.name : ""));
      if (declared) return [declared.id.name];
      return node.specifiers.map(({ exported }) => ("name" in exported ? exported.name : String(exported.value)));
    });
    const refuse = `function refuse() { throw new Error(${JSON.stringify(`${name} is left out`)}); }`;
    const exported = names.map((one) => `export { refuse as ${one} };`);
    return { code: [refuse, ...exported].join("\n"), moduleSideEffects: false };
  },
  buildEnd(failure) {
    const missing = ABSENT.filter((one) => !found.has(one));
    if (!failure && missing.length) this.error(`there is nothing of this to leave out: ${missing.join(", ")}`);
  },
};

/**
 * These packages say of themselves that a module of which nothing is used need not run (`sideEffects`). The package.json
 * nearest to their modules doesn't, and it is the one that is read. dicom-image-loader doesn't say so; what it does when
 * it is loaded is to offer its decoders to whoever sends the page a message.
 */
const WITHOUT_EFFECTS = /\/node_modules\/@cornerstonejs\/(core|dicom-image-loader|metadata|tools|utils)\/dist\/esm\//;

const declared: Plugin = {
  name: "declared",
  apply: "build",
  transform(_code, id) {
    return WITHOUT_EFFECTS.test(id) ? { moduleSideEffects: false } : null;
  },
};

/** What stands in for other people's packages; during development those are served as they are. */
const standIn = (name: string): string => fileURLToPath(new URL(`src/viewer/${name}`, import.meta.url));
const STAND_INS = [
  { find: "dcmjs", replacement: standIn("no-dcmjs.ts") },
  { find: /^.*\/ColorMaps\.json\.js$/, replacement: standIn("no-color-maps.ts") },
];

export default defineConfig(({ command }) => ({
  plugins: [react(), absent, changed, declared],
  envPrefix: "REACT_APP_",
  resolve: {
    alias: [{ find: "xmlbuilder2", replacement: standIn("no-xml.ts") }, ...(command === "build" ? STAND_INS : [])],
  },
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
}));
