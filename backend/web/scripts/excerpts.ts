/** Excerpts of a JSON lines file: what stands in a line, or in one field of it. */

const MAX_CHARACTERS = 160;
const PARQUET = "PAR1";

export interface Place {
  /** From 1. */
  readonly line: number;
  /** A path such as `messages[2].role`; empty for the whole line. */
  readonly field: string;
}

/** Excerpts by the index of their place. A Parquet file has none. Reads up to the last line that is asked for. */
export async function excerptsOf(file: Blob, places: readonly Place[]): Promise<Map<number, string>> {
  const found = new Map<number, string>();
  const last = Math.max(0, ...places.map((place) => place.line));
  if (last === 0 || (await file.slice(0, PARQUET.length).text()) === PARQUET) return found;
  let line = 0;
  for await (const text of linesOf(file)) {
    line += 1;
    places.forEach((place, index) => {
      if (place.line === line) found.set(index, excerptOf(text, place.field));
    });
    if (line === last) break;
  }
  return found;
}

async function* linesOf(file: Blob): AsyncGenerator<string> {
  const reader = file.stream().pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop()!;
    yield* lines;
  }
  if (rest !== "") yield rest;
}

function excerptOf(line: string, field: string): string {
  const text = fieldOf(line, field) ?? line;
  return text.length > MAX_CHARACTERS ? `${text.slice(0, MAX_CHARACTERS)}…` : text;
}

function fieldOf(line: string, field: string): string | undefined {
  if (field === "") return undefined;
  try {
    let value = JSON.parse(line) as unknown;
    for (const name of field.match(/[^.[\]]+/g) ?? [])
      value = (value as Record<string, unknown> | null | undefined)?.[name];
    return value === undefined ? undefined : JSON.stringify(value);
  } catch {
    return undefined;
  }
}
