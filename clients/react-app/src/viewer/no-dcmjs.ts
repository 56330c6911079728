/**
 * In the place of dcmjs, a megabyte of which Cornerstone3D uses its logger and four UIDs here: what it reads whole headers
 * with is never called (`useLegacyMetadataProvider`), and dicom-parser reads ours.
 */
type Say = (...what: unknown[]) => void;

interface Logger extends Record<"trace" | "debug" | "info" | "warn" | "error", Say> {
  getLogger: (name: string) => Logger;
}

const quiet: Say = () => undefined;

/** Warnings and errors, as dcmjs tells them; no level is looked for in the browser's storage. */
const logger = (): Logger => ({
  trace: quiet,
  debug: quiet,
  info: quiet,
  warn: console.warn.bind(console),
  error: console.error.bind(console),
  getLogger: logger,
});

export const log = logger();

/** Transfer Syntaxes (PS3.5 chapter 10). */
export const constants = {
  IMPLICIT_LITTLE_ENDIAN: "1.2.840.10008.1.2",
  EXPLICIT_LITTLE_ENDIAN: "1.2.840.10008.1.2.1",
  DEFLATED_EXPLICIT_LITTLE_ENDIAN: "1.2.840.10008.1.2.1.99",
  EXPLICIT_BIG_ENDIAN: "1.2.840.10008.1.2.2",
};

function refuse(): never {
  throw new Error("headers are read by dicom-parser here");
}

export default {
  data: { DicomMetaDictionary: { dictionary: {}, nameMap: {} } },
  utilities: { DicomMetadataListener: refuse },
  async: { AsyncDicomReader: refuse },
};
