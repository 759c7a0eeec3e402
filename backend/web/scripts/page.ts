/** What every page does with a script: signing in, and buttons that copy. Pages read well without it. */

import { prepareCopying } from "./copying.ts";
import { prepareSignIn } from "./sign-in.ts";

prepareSignIn();
prepareCopying();
