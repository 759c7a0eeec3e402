/** What every page does with a script: signing in, and buttons that copy or call the API. Pages read well without it. */

import { prepareCalls } from "./calls.ts";
import { prepareCopying } from "./copying.ts";
import { prepareSignIn } from "./sign-in.ts";

prepareSignIn();
prepareCopying();
prepareCalls();
