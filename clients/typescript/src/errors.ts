/** Base of all errors of this package. `message` says what is wrong and what to do. */
export class VerifierError extends Error {
  /** The field, function or address at fault, such as `receipt.charge`. */
  readonly param: string;

  constructor(message: string, param: string) {
    super(message);
    this.name = new.target.name;
    this.param = param;
  }
}

/**
 * A document that is not of the kind or version that this package reads. `param` is the path of the field.
 */
export class MalformedDocument extends VerifierError {}

/** A signature that no key made, or that could be changed into another valid one. */
export class InvalidSignature extends VerifierError {}

/** An opening whose index, path length or sums are impossible in a tree with that number of leaves. */
export class InvalidOpening extends VerifierError {}

/** The node is of another chain than the market. */
export class WrongChain extends VerifierError {}

/** The node does not answer, refuses the call, or answers with something else than what was asked for. */
export class NodeFailed extends VerifierError {}

/** The market's API does not answer, or refuses the request. `param` is the URL. */
export class ApiFailed extends VerifierError {
  /** The API's code of the error, such as `not_found`, if it gave one. */
  readonly code: string | undefined;

  constructor(message: string, param: string, code?: string) {
    super(message, param);
    this.code = code;
  }
}
