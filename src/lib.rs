//! eastgate
