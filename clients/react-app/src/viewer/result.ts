/** A job's result files, fetched and read for the viewer. */
import type { DataSet } from "dicom-parser";

import { fetchAgain } from "../api/http";
import type { Job, SignedOutput } from "../api/types";
import { parse, parseHeader, readCapture, readMeasurements, readSegmentation, studyOf } from "./dicom";
import type { Capture, Measurement, Segmentation } from "./dicom";
import { wadouri } from "./engine";
import { framesOf } from "./frames";

export interface ReadResult {
  segmentation: Segmentation | null;
  measurements: Measurement[];
  /** What the algorithm drew, where there is such a file: fetched when it is to be seen. */
  capture: SignedOutput | null;
  /** Study Instance UIDs that the segmentation and the measurements name. */
  studies: string[];
  /** Why a file of it could not be read; the others were. */
  failure: unknown;
}

export interface ReadCapture extends Capture {
  imageIds: string[];
}

export type OutputFile = Pick<SignedOutput, "kind" | "url" | "key">;

/** The files of a result. Containers of the earlier system name one, without its kind. */
export function filesOf(job: Job): OutputFile[] {
  if (!job.result) return [];
  const { outputs, dicom } = job.result;
  return outputs.length ? outputs : [{ kind: "SC", url: dicom.url, key: dicom.key }];
}

export async function readResult(job: Job, signal: AbortSignal): Promise<ReadResult> {
  const files = filesOf(job);
  const one = (kind: string) => files.find((file) => file.kind === kind);
  const studies: string[] = [];
  const read = async <T>(kind: string, how: (data: DataSet) => T): Promise<T | null> => {
    const file = one(kind);
    if (!file) return null;
    const data = parse(await fetched(file.url, signal));
    studies.push(studyOf(data));
    return how(data);
  };
  const [seg, sr] = await Promise.allSettled([read("SEG", readSegmentation), read("SR", readMeasurements)]);
  signal.throwIfAborted();
  const failed = [seg, sr].find((one) => one.status === "rejected");
  return {
    segmentation: seg.status === "fulfilled" ? seg.value : null,
    measurements: (sr.status === "fulfilled" && sr.value) || [],
    capture: (one("SC") as SignedOutput | undefined) ?? null,
    studies,
    failure: failed ? (failed.reason as unknown) : null,
  };
}

export async function readCaptureFile(file: OutputFile, signal: AbortSignal): Promise<ReadCapture> {
  const bytes = await fetched(file.url, signal);
  const read = readCapture(parseHeader(bytes));
  const id = wadouri.fileManager.add(new Blob([bytes], { type: "application/dicom" }));
  const imageIds = read.frames > 1 ? framesOf(id, read.frames) : [id];
  return { ...read, imageIds };
}

async function fetched(url: string, signal: AbortSignal): Promise<ArrayBuffer> {
  const answer = await fetchAgain(url, { signal, cache: "no-store", credentials: "omit" });
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
  return answer.arrayBuffer();
}

/** Save ``url``'s content as a file; the address is another origin's, where a link's ``download`` has no say. */
export async function saveFile(url: string, name: string): Promise<void> {
  saveBlob(new Blob([await fetched(url, AbortSignal.timeout(300_000))], { type: "application/dicom" }), name);
}

export function saveBlob(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
