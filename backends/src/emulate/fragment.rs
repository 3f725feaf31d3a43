//! Which thread of a warp holds which element of a matrix: pure functions of the PTX ISA's figures.
//!
//! They are written from the ISA's text, not from what the code generator uses, so that each checks the other.

/// Row and column of element `e` of register `register` that a lane holds of the left factor of `mma.m16n8k*`; a
/// register has `per` elements (PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type", figures of A,
/// and the same of m16n8k8 and m16n8k32).
pub(super) fn mma_a(lane: usize, register: usize, e: usize, per: usize) -> [usize; 2] {
    let (group, thread) = (lane >> 2, lane & 3);
    let row = if register & 1 == 0 { group } else { group + 8 };
    let column = thread * per + e + if register < 2 { 0 } else { 4 * per };
    [row, column]
}

/// Row (along k) and column of an element of the right factor (the figures of B).
pub(super) fn mma_b(lane: usize, register: usize, e: usize, per: usize) -> [usize; 2] {
    let (group, thread) = (lane >> 2, lane & 3);
    [thread * per + e + register * 4 * per, group]
}

/// Row and column of an accumulator of 32 bits (the figures of C and D).
pub(super) fn mma_c(lane: usize, register: usize) -> [usize; 2] {
    let (group, thread) = (lane >> 2, lane & 3);
    [if register < 2 { group } else { group + 8 }, thread * 2 + (register & 1)]
}

/// Row and column of element `e` (0 or 1) of the register that a lane gets of a matrix of 8 x 8 elements of 16 bits
/// ("ldmatrix", figure "ldmatrix fragment layout"; transposed if the instruction says so).
pub(super) fn ldmatrix(lane: usize, e: usize, transposed: bool) -> [usize; 2] {
    let (row, column) = (lane / 4, 2 * (lane % 4) + e);
    if transposed { [column, row] } else { [row, column] }
}

/// Row and column, within the 64 rows of a warp group, of accumulator `register` of `wgmma.mma_async` ("Register
/// Fragments", figure of D): each warp holds 16 rows, a lane two columns of every eight in two rows.
pub(super) fn wgmma_d(warp: usize, lane: usize, register: usize) -> [usize; 2] {
    let row = 16 * (warp % 4) + lane / 4 + 8 * ((register / 2) % 2);
    let column = 8 * (register / 4) + 2 * (lane % 4) + register % 2;
    [row, column]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries read off the ISA's figures: lane, register, element, elements of a register, row, column.
    #[test]
    fn left_factors() {
        let table = [
            // .f16 and .bf16, m16n8k16
            (0, 0, 0, 2, [0, 0]),
            (0, 0, 1, 2, [0, 1]),
            (0, 1, 0, 2, [8, 0]),
            (0, 2, 1, 2, [0, 9]),
            (0, 3, 0, 2, [8, 8]),
            (31, 0, 1, 2, [7, 7]),
            (31, 3, 1, 2, [15, 15]),
            (5, 2, 0, 2, [1, 10]),
            // .tf32, m16n8k8
            (0, 1, 0, 1, [8, 0]),
            (0, 2, 0, 1, [0, 4]),
            (7, 3, 0, 1, [9, 7]),
            // .s8, m16n8k32
            (0, 0, 3, 4, [0, 3]),
            (1, 2, 0, 4, [0, 20]),
            (31, 3, 3, 4, [15, 31]),
        ];
        for (lane, register, e, per, place) in table {
            assert_eq!(mma_a(lane, register, e, per), place, "lane {lane} register {register} element {e}");
        }
    }

    #[test]
    fn right_factors() {
        let table = [
            (0, 0, 0, 2, [0, 0]),
            (1, 0, 1, 2, [3, 0]),
            (4, 0, 0, 2, [0, 1]),
            (0, 1, 0, 2, [8, 0]),
            (31, 1, 1, 2, [15, 7]),
            (3, 1, 0, 1, [7, 0]),
            (2, 1, 3, 4, [27, 0]),
        ];
        for (lane, register, e, per, place) in table {
            assert_eq!(mma_b(lane, register, e, per), place, "lane {lane} register {register} element {e}");
        }
    }

    #[test]
    fn accumulators() {
        let table = [(0, 0, [0, 0]), (0, 1, [0, 1]), (0, 2, [8, 0]), (6, 3, [9, 5]), (31, 3, [15, 7])];
        for (lane, register, place) in table {
            assert_eq!(mma_c(lane, register), place, "lane {lane} register {register}");
        }
    }

    #[test]
    fn matrices_of_eight_rows() {
        let table = [
            (0, 0, false, [0, 0]),
            (1, 1, false, [0, 3]),
            (4, 0, false, [1, 0]),
            (31, 1, false, [7, 7]),
            (1, 1, true, [3, 0]),
            (4, 0, true, [0, 1]),
        ];
        for (lane, e, transposed, place) in table {
            assert_eq!(ldmatrix(lane, e, transposed), place, "lane {lane} element {e}");
        }
    }

    #[test]
    fn accumulators_of_warp_groups() {
        let table = [
            (0, 0, 0, [0, 0]),
            (0, 0, 1, [0, 1]),
            (0, 0, 2, [8, 0]),
            (0, 0, 4, [0, 8]),
            (1, 0, 0, [16, 0]),
            (3, 31, 3, [63, 7]),
            (2, 5, 6, [41, 10]),
        ];
        for (warp, lane, register, place) in table {
            assert_eq!(wgmma_d(warp, lane, register), place, "warp {warp} lane {lane} register {register}");
        }
    }

    /// Every element of a fragment is held exactly once.
    #[test]
    fn fragments_cover_their_matrices() {
        for (registers, per) in [(4, 2), (2, 2), (4, 1), (2, 1), (4, 4), (2, 4)] {
            let columns = registers / 2 * 4 * per;
            let mut seen = vec![0; 16 * columns];
            for lane in 0..32 {
                for (register, e) in (0..registers).flat_map(|r| (0..per).map(move |e| (r, e))) {
                    let [row, column] = mma_a(lane, register, e, per);
                    seen[row * columns + column] += 1;
                }
            }
            assert!(seen.iter().all(|n| *n == 1), "{registers} registers of {per}");
        }
    }
}
