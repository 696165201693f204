//! GetAccountSettings.

use crate::errors::Refusal;
use crate::request::{Answer, Gateway};
use api::lambda::{AccountLimit, AccountSettings, AccountUsage};

/// GetAccountSettings
pub async fn settings(gateway: &Gateway) -> Result<Answer, Refusal> {
    let account = gateway.control.account().await.map_err(|error| Refusal::platform(&error))?;
    let limits = &gateway.limits;
    let shown = AccountSettings {
        account_limit: AccountLimit {
            total_code_size: limits.code_storage_bytes,
            code_size_unzipped: limits.unzipped_bytes,
            code_size_zipped: limits.zip_bytes,
            concurrent_executions: limits.concurrent_executions,
            unreserved_concurrent_executions: gateway.control.unreserved(),
        },
        account_usage: AccountUsage { total_code_size: account.code_bytes, function_count: account.functions },
    };
    Answer::of(200, &shown)
}
