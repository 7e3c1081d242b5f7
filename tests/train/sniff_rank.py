"""A rank that sniffs; with `wrong`, the device of rank 1 turns one bit of a product."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist

from wingspan.errors import WingspanError
from wingspan.train.processes import processes

if __name__ == "__main__":
    if sys.argv[1] == "wrong":
        multiply = torch.Tensor.__matmul__

        def wrong(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            product = multiply(left, right)
            if dist.get_rank() == 1 and product.shape[0] > 100:
                product[17, 30] += 2
            return product

        torch.Tensor.__matmul__ = wrong
    try:
        with processes(60):
            print("well", flush=True)
    except WingspanError as error:
        print(error.exit_code, error, flush=True)
