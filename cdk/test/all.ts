/** All tests in one process: making the stages is most of the work, and so it is done once. */
import './contract.test.js';
import './stack.test.js';
