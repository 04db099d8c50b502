#!/usr/bin/env python3
"""How hard the lattice problem behind encrypted search is. The parameters are those of host/fhe/src/params.rs.

With the lattice estimator (Albrecht, Player, Scott 2015; https://github.com/malb/lattice-estimator, runs in SageMath) on the
path, it prints the estimator's figures under the MATZOV cost model, which is the model behind tfhe's own noise bounds.

Without it, only the block size that the primal attack needs is computed here, in plain Python:

  lattice   Bai-Galbraith embedding of (A, b = A s + e), rescaled by nu = sigma_e / sigma_s; dimension d = m + n + 1, volume
            q^m nu^n (Bai and Galbraith, ACISP 2014)
  success   sqrt(beta) sigma_e <= delta(beta)^(2 beta - d - 1) Vol^(1/d) (Alkim, Ducas, Poeppelmann, Schwabe, USENIX Security
            2016, section 6.3)
  delta     ((pi beta)^(1/beta) beta / (2 pi e))^(1/(2 (beta - 1))) (Chen 2013)
  cost      core-SVP 2^(0.292 beta), a lower bound; and 8 d 2^(0.292 beta + 16.4) (Becker, Ducas, Gama, Laarhoven 2016 with the
            constant of that paper and 8 d calls)

That is one attack of several: dual and hybrid attacks are the estimator's, and are not claimed here.

  python3 tests/lattice_estimate.py
"""

import math

N = 2048  # ring degree, one mask polynomial: the LWE dimension
LOG2_Q = 64
NOISE_BOUND_LOG2 = 17  # TUniform(17): variance (2^(2 * 17 + 1) + 1) / 6
# m secrets share a mask (384 dimensions, block 8: 48). A hybrid argument over them costs at most log2 m bits.
SECRETS = 48
# Every group gives N samples under each secret, so an attacker has as many as are of use.
MOST_SAMPLES = 4 * N


def sigma_noise():
    return math.sqrt((2 ** (2 * NOISE_BOUND_LOG2 + 1) + 1) / 6)


def log2_delta(beta):
    return (math.log2(math.pi * beta) / beta + math.log2(beta / (2 * math.pi * math.e))) / (2 * (beta - 1))


def succeeds(beta, samples):
    sigma, secret = sigma_noise(), 0.5  # a binary secret, centred
    d = samples + N + 1
    volume = (samples * LOG2_Q + N * math.log2(sigma / secret)) / d
    return math.log2(math.sqrt(beta) * sigma) <= (2 * beta - d - 1) * log2_delta(beta) + volume


def primal():
    for beta in range(60, 2000):
        for samples in range(N // 4, MOST_SAMPLES, 16):
            if succeeds(beta, samples):
                return beta, samples
    raise SystemExit("no block size up to 2000 is enough")


def estimator():
    from estimator import LWE, ND, RC  # noqa: the estimator's own names

    sigma = sigma_noise()
    params = LWE.Parameters(
        n=N, q=2**LOG2_Q, Xs=ND.Binary, Xe=ND.DiscreteGaussian(sigma), m=MOST_SAMPLES, tag="casemate encrypted search"
    )
    print(f"lattice estimator, RC.MATZOV, {params}")
    for name, attack in [("primal uSVP", LWE.primal_usvp), ("primal BDD", LWE.primal_bdd), ("dual hybrid", LWE.dual_hybrid)]:
        print(f"  {name}: {attack(params, red_cost_model=RC.MATZOV)!r}")


def main():
    print(f"n = {N}, q = 2^{LOG2_Q}, binary secret, TUniform({NOISE_BOUND_LOG2}): sigma = 2^{math.log2(sigma_noise()):.2f}")
    beta, samples = primal()
    d = samples + N + 1
    core = 0.292 * beta
    print(f"primal attack (uSVP), own computation: beta = {beta}, m = {samples}, d = {d}")
    print(f"  core-SVP 2^{core:.1f}; with 8 d calls and the sieve's constant 2^{core + 16.4 + math.log2(8 * d):.1f}")
    print(f"  {SECRETS} secrets under one mask: at most {math.log2(SECRETS):.1f} bits less")
    try:
        estimator()
    except ImportError:
        print("lattice estimator: not installed, so dual and hybrid attacks are not estimated here")


if __name__ == "__main__":
    main()
