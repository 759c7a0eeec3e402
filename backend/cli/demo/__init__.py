"""`loraledger demo`: the value loop, end to end, as wallets and the stock OpenAI client live it."""
