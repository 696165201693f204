//! Provisioned concurrency and its scaling as records of the registry: JSON under `provisioned.<function>.<qualifier>`
//! and `scaling.<function>.<qualifier>`. They go with their function, version or alias.

use crate::Error;
use crate::functions::encode;
use crate::registry::{Expect, Registry};
use model::{FunctionName, Provisioned, Scaling};

impl Registry {
    /// Calls `visit` with the provisioned concurrency of everything.
    pub fn each_provisioned(&self, visit: impl FnMut(Provisioned)) -> Result<(), Error> {
        self.each("provisioned.", visit)
    }

    /// Writes the provisioned concurrency of a version or an alias.
    pub fn put_provisioned(&self, record: &Provisioned) -> Result<(), Error> {
        let key = format!("provisioned.{}.{}", record.function, record.qualifier);
        self.put(&key, &encode(&record.function, record)?, Expect::Any).map(|_| ())
    }

    /// Removes it; one that is not there is no failure.
    pub fn delete_provisioned(&self, function: &FunctionName, qualifier: &str) -> Result<(), Error> {
        self.delete(&format!("provisioned.{function}.{qualifier}"), Expect::Any).map(|_| ())
    }

    /// Calls `visit` with the scaling of everything.
    pub fn each_scaling(&self, visit: impl FnMut(Scaling)) -> Result<(), Error> {
        self.each("scaling.", visit)
    }

    /// Writes the scaling of a version or an alias.
    pub fn put_scaling(&self, record: &Scaling) -> Result<(), Error> {
        let key = format!("scaling.{}.{}", record.function, record.qualifier);
        self.put(&key, &encode(&record.function, record)?, Expect::Any).map(|_| ())
    }

    /// Removes it; one that is not there is no failure.
    pub fn delete_scaling(&self, function: &FunctionName, qualifier: &str) -> Result<(), Error> {
        self.delete(&format!("scaling.{function}.{qualifier}"), Expect::Any).map(|_| ())
    }
}
