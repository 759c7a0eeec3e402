/** The local chain of `loraledger up`. It needs no compiler and no plugin. */
export default {
  networks: {
    // Blocks are also mined at an interval, so that transactions gain confirmations.
    node: {
      type: "edr-simulated",
      chainType: "l1",
      chainId: 31337,
      mining: { auto: true, interval: 1000 },
      // Otherwise each transaction of a burst would move the chain's clock one second further ahead of real time, permanently.
      allowBlocksWithSameTimestamp: true,
    },
  },
};
